//! Trie: finds every shape of a path, in order of precedence.
//!
//! The tree returns one shape. The trie is used if that is not enough: the shape's routes reject
//! the request, or the tree cannot hold all shapes.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::routing::segment::between;
use crate::routing::shape::{Part, Shape};

/// Shapes by their segments.
#[derive(Debug)]
pub(super) struct Trie {
    /// The first one is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    text: HashMap<Box<str>, usize>,
    around: Vec<(Part, usize)>,
    any: Option<usize>,
    /// The shape that ends in a catch-all at this node.
    rest: Option<usize>,
    /// The shape that ends at this node.
    end: Option<usize>,
}

impl Trie {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }

    /// Adds a shape that is not in the trie yet.
    pub(super) fn insert(&mut self, shape: &Shape, value: usize) {
        let mut at = 0;
        for part in shape.parts() {
            let fresh = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match part {
                Part::Rest => {
                    node.rest = Some(value);
                    return;
                }
                Part::Text(text) => *node.text.entry(text.clone()).or_insert(fresh),
                Part::Any => *node.any.get_or_insert(fresh),
                Part::Around { .. } => {
                    match node.around.binary_search_by(|(known, _)| known.cmp(part)) {
                        Ok(found) => node.around[found].1,
                        Err(place) => {
                            node.around.insert(place, (part.clone(), fresh));
                            fresh
                        }
                    }
                }
            };
            if at == fresh {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].end = Some(value);
    }

    /// Visits the shapes of a path (canonical, without leading slash) until the visitor breaks.
    pub(super) fn visit(
        &self,
        path: &str,
        visitor: &mut impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.visit_from(0, Some(path), visitor)
    }

    /// Recurses at most as deep as the longest pattern has segments, for any path.
    fn visit_from(
        &self,
        node: usize,
        path: Option<&str>,
        visitor: &mut impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let node = &self.nodes[node];
        let Some(path) = path else {
            return node.end.map_or(ControlFlow::Continue(()), visitor);
        };
        let (segment, rest) = match path.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (path, None),
        };
        if let Some(&next) = node.text.get(segment) {
            self.visit_from(next, rest, visitor)?;
        }
        for (part, next) in &node.around {
            if matches!(part, Part::Around { before, after } if between(segment, before, after).is_some())
            {
                self.visit_from(*next, rest, visitor)?;
            }
        }
        if let Some(next) = node.any.filter(|_| !segment.is_empty()) {
            self.visit_from(next, rest, visitor)?;
        }
        match node.rest.filter(|_| !path.is_empty()) {
            Some(value) => visitor(value),
            None => ControlFlow::Continue(()),
        }
    }
}

//! Tree: finds the shape of a path in one walk. The only file that uses matchit.

use std::ops::ControlFlow;

use matchit::Router;

use crate::routing::canonical::CanonicalPath;
use crate::routing::shape::Shape;
use crate::routing::trie::Trie;

/// Shapes with more parameters than this are only in the trie: the tree has no names for them.
const TREE_PARAMS_MAX: usize = 20;

/// If more shapes than this are only in the trie, all other shapes count as contested without a
/// comparison.
const LEFT_OUT_COMPARED_MAX: usize = 64;

/// All shapes of a table, each identified by its number.
///
/// matchit holds the shapes that it distinguishes safely. It returns only one shape for a path, so
/// the trie holds all shapes and visits every shape of a path in order.
#[derive(Debug)]
pub(super) struct Tree {
    router: Router<usize>,
    trie: Trie,
    /// For each shape, whether one of its paths can also have a shape of higher precedence that is
    /// not in the router.
    contested: Vec<bool>,
    /// Whether some shapes are only in the trie.
    leaves_out: bool,
}

impl Tree {
    /// Builds the tree from distinct shapes.
    pub(super) fn build(shapes: &[Shape]) -> Self {
        let mut order: Vec<usize> = (0..shapes.len()).collect();
        order.sort_unstable_by(|one, other| shapes[*one].cmp(&shapes[*other]));
        let mut router = Router::new();
        let mut trie = Trie::new();
        let mut left_out: Vec<&Shape> = Vec::new();
        for index in order {
            let shape = &shapes[index];
            trie.insert(shape, index);
            // For text around a parameter, matchit stops at the first matching suffix and does not
            // backtrack, so `/{x}ab/c` would hide `/{x}b/d`.
            let fits = !shape.has_around() && shape.params() <= TREE_PARAMS_MAX;
            // matchit rejects a catch-all next to a parameter.
            if !fits || router.insert(shape.tree_text(), index).is_err() {
                left_out.push(shape);
            }
        }
        let comes_first = |out: &&Shape, shape: &Shape| *out < shape && out.may_overlap(shape);
        let is_contested = |shape: &Shape| {
            left_out.len() > LEFT_OUT_COMPARED_MAX
                || left_out.iter().any(|out| comes_first(out, shape))
        };
        let contested = shapes.iter().map(is_contested).collect();
        Self {
            router,
            trie,
            contested,
            leaves_out: !left_out.is_empty(),
        }
    }

    /// Visits the shapes of a path in order of precedence, until the visitor breaks. The first one
    /// may be visited twice.
    pub(super) fn visit(
        &self,
        path: &CanonicalPath<'_>,
        visitor: &mut impl FnMut(usize) -> ControlFlow<()>,
    ) {
        match self.router.at(path.as_str()) {
            Err(_) if !self.leaves_out => return,
            Ok(found) if !self.contested[*found.value] && visitor(*found.value).is_break() => {
                return;
            }
            _ => {}
        }
        let _ = self.trie.visit(path.relative(), visitor);
    }
}

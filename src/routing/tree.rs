//! Tree: the shape of a path in one walk. The only place that names matchit.

use std::ops::ControlFlow;

use matchit::Router;

use crate::routing::canonical::CanonicalPath;
use crate::routing::shape::Shape;
use crate::routing::trie::Trie;

/// More parameters than the tree has names for are left to the trie.
const TREE_PARAMS_MAX: usize = 20;

/// With more shapes than this left to the trie, all others are taken as contested instead of being compared.
const LEFT_OUT_COMPARED_MAX: usize = 64;

/// All shapes of a table; a shape is known by its number.
///
/// matchit holds those it can tell apart safely. It answers with one shape and goes on no further, so the trie
/// knows all of them, and gives every shape of a path in order.
#[derive(Debug)]
pub(super) struct Tree {
    router: Router<usize>,
    trie: Trie,
    /// For each shape, whether a path of it may also be of one that comes first and is not in the router.
    contested: Vec<bool>,
    /// Whether some shapes are only in the trie.
    leaves_out: bool,
}

impl Tree {
    /// Takes the shapes, each once.
    pub(super) fn build(shapes: &[Shape]) -> Self {
        let mut order: Vec<usize> = (0..shapes.len()).collect();
        order.sort_unstable_by(|one, other| shapes[*one].cmp(&shapes[*other]));
        let mut router = Router::new();
        let mut trie = Trie::new();
        let mut left_out: Vec<&Shape> = Vec::new();
        for index in order {
            let shape = &shapes[index];
            trie.insert(shape, index);
            // Where text stands around parameters matchit stops at the first fitting ending and does not come
            // back, so `/{x}ab/c` would hide `/{x}b/d`.
            let fits = !shape.has_around() && shape.params() <= TREE_PARAMS_MAX;
            // It refuses a catch-all beside a parameter.
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

    /// Visits the shapes of a path in the order of precedence, until the visitor breaks off. The first one may
    /// come twice.
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

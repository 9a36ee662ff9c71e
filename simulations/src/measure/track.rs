//! A course over time in a bounded number of steps.
//!
//! Owns [`Track`]. Main invariant: there are never more than [`STEPS_MAX`] steps; when time outgrows them, each two
//! neighbours are joined and a step is twice as wide, so that nothing must be known of a run's length beforehand.

/// Most steps of one course: as many as a wide picture has points.
pub(super) const STEPS_MAX: usize = 960;

/// The width of a step at first, in milliseconds.
const STEP_MS: u64 = 1_000;

/// What one step holds.
pub(super) trait Cell: Copy {
    /// How the next step begins.
    fn next(self) -> Self;
    /// This step and the one after it as one.
    fn join(self, later: Self) -> Self;
}

/// A course.
#[derive(Debug)]
pub(super) struct Track<C> {
    step_ms: u64,
    steps: Vec<C>,
}

impl<C: Cell> Track<C> {
    pub(super) fn new(first: C) -> Self {
        Self { step_ms: STEP_MS, steps: vec![first] }
    }

    /// The step of a moment. Moments never go back by more than a step.
    pub(super) fn at(&mut self, at_ms: u64) -> &mut C {
        while at_ms / self.step_ms >= STEPS_MAX as u64 {
            self.widen();
        }
        let wanted = usize::try_from(at_ms / self.step_ms).unwrap_or(STEPS_MAX);
        while self.steps.len() <= wanted {
            let next = self.steps[self.steps.len() - 1].next();
            self.steps.push(next);
        }
        &mut self.steps[wanted]
    }

    fn widen(&mut self) {
        let joined = self.steps.chunks(2).map(|pair| match pair {
            [first, second] => first.join(*second),
            // The last one stays open: what comes later is joined to it as it comes.
            [only] => *only,
            _ => unreachable!("chunks of two"),
        });
        self.steps = joined.collect();
        self.step_ms *= 2;
    }

    /// The width of a step, and all steps so far.
    pub(super) fn steps(&self) -> (u64, Vec<C>) {
        (self.step_ms, self.steps.clone())
    }

    /// The same, with the last one going on until a moment.
    pub(super) fn until(&self, at_ms: u64) -> (u64, Vec<C>) {
        let mut whole = Self { step_ms: self.step_ms, steps: self.steps.clone() };
        let _ = whole.at(at_ms);
        whole.steps()
    }
}

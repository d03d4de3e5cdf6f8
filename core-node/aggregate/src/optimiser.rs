//! The step that the server makes along the combined update, element by element, in `f64`.

use super::{Rule, Strategy};

/// What a strategy keeps for each element, as parts of names of the state's tensors.
pub(crate) const MOMENTUM: &str = "#momentum";
/// See [`MOMENTUM`].
pub(crate) const VARIANCE: &str = "#variance";
/// The model in `f32`, where its own type has fewer bits.
pub(crate) const MASTER: &str = "#master";

/// Which of them a strategy has.
pub(crate) fn kept(strategy: &Strategy) -> &'static [&'static str] {
    match strategy.rule {
        Rule::Fedavgm { .. } => &[MOMENTUM],
        Rule::Fedadagrad { .. } | Rule::Fedadam { .. } | Rule::Fedyogi { .. } => &[MOMENTUM, VARIANCE],
        _ => &[],
    }
}

/// What an element's variance begins with.
pub(crate) fn first_variance(strategy: &Strategy) -> f32 {
    match strategy.rule {
        Rule::Fedadagrad { tau, .. } | Rule::Fedadam { tau, .. } | Rule::Fedyogi { tau, .. } => (tau * tau) as f32,
        _ => 0.0,
    }
}

/// What is added to an element, with Δ the combined update.
pub(crate) fn step(strategy: &Strategy, delta: f64, momentum: &mut f32, variance: &mut f32) -> f64 {
    let eta = strategy.eta();
    let adaptive = |beta1: f64, tau: f64, next: f64, momentum: &mut f32, variance: &mut f32| {
        let mean = beta1 * f64::from(*momentum) + (1.0 - beta1) * delta;
        *momentum = mean as f32;
        *variance = next as f32;
        eta * mean / (next.sqrt() + tau)
    };
    let (square, before) = (delta * delta, f64::from(*variance));
    match strategy.rule {
        Rule::Fedavgm { momentum: beta, .. } => {
            let velocity = beta * f64::from(*momentum) + delta;
            *momentum = velocity as f32;
            eta * velocity
        }
        Rule::Fedadagrad { beta1, tau, .. } => adaptive(beta1, tau, before + square, momentum, variance),
        Rule::Fedadam { beta1, beta2, tau, .. } => {
            adaptive(beta1, tau, beta2 * before + (1.0 - beta2) * square, momentum, variance)
        }
        Rule::Fedyogi { beta1, beta2, tau, .. } => {
            let sign = if before > square {
                1.0
            } else if before < square {
                -1.0
            } else {
                0.0
            };
            adaptive(beta1, tau, before - (1.0 - beta2) * square * sign, momentum, variance)
        }
        _ => eta * delta,
    }
}

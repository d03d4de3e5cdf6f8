//! A perceptron with one hidden layer, and stochastic gradient descent with momentum.

use ndarray::{Array1, Array2, Axis, Zip};

use crate::images::CLASSES;

const HIDDEN: usize = 96;
const MOMENTUM: f32 = 0.9;
/// The learning rate of a first epoch.
pub(crate) const RATE: f32 = 0.08;

/// The learning rate of an epoch: it falls to nothing in a straight line.
pub(crate) fn rate(epoch: u64, epochs: u64) -> f32 {
    RATE * (epochs - epoch) as f32 / epochs as f32
}

/// Weights from a layer to the next, with what each of them moved by last.
pub(crate) struct Layer {
    pub(crate) weights: Array2<f32>,
    pub(crate) bias: Array1<f32>,
    moved: Array2<f32>,
    bias_moved: Array1<f32>,
}

impl Layer {
    /// Random weights as He et al. (2015) have them, uniform, the same in each run.
    fn new(inputs: usize, outputs: usize) -> Self {
        let limit = (6.0 / inputs as f32).sqrt();
        let mut bytes = vec![0; inputs * outputs * 2];
        blake3::Hasher::new().update(b"weights").finalize_xof().fill(&mut bytes);
        let (pairs, _) = bytes.as_chunks::<2>();
        let weights = pairs.iter().map(|pair| limit * (f32::from(u16::from_le_bytes(*pair)) / 32_767.5 - 1.0));
        let weights = Array2::from_shape_vec((inputs, outputs), weights.collect()).expect("as many as were drawn");
        Self::of(weights, Array1::zeros(outputs))
    }

    /// A layer that has not moved yet.
    pub(crate) fn of(weights: Array2<f32>, bias: Array1<f32>) -> Self {
        Self { moved: Array2::zeros(weights.dim()), bias_moved: Array1::zeros(bias.len()), weights, bias }
    }

    fn apply(&self, inputs: &Array2<f32>) -> Array2<f32> {
        inputs.dot(&self.weights) + &self.bias
    }

    fn learn(&mut self, inputs: &Array2<f32>, errors: &Array2<f32>, rate: f32) {
        let step = |moved: &mut f32, weight: &mut f32, gradient: &f32| {
            *moved = MOMENTUM * *moved - rate * gradient;
            *weight += *moved;
        };
        Zip::from(&mut self.moved).and(&mut self.weights).and(&inputs.t().dot(errors)).for_each(step);
        Zip::from(&mut self.bias_moved).and(&mut self.bias).and(&errors.sum_axis(Axis(0))).for_each(step);
    }
}

/// The classifier.
pub(crate) struct Model {
    pub(crate) first: Layer,
    pub(crate) second: Layer,
}

impl Model {
    pub(crate) fn new(pixels: usize) -> Self {
        Self { first: Layer::new(pixels, HIDDEN), second: Layer::new(HIDDEN, CLASSES) }
    }

    fn hidden(&self, pixels: &Array2<f32>) -> Array2<f32> {
        self.first.apply(pixels).mapv_into(|value| value.max(0.0))
    }

    /// One step down the gradient of the cross entropy.
    pub(crate) fn learn(&mut self, pixels: &Array2<f32>, labels: &[usize], rate: f32) {
        let hidden = self.hidden(pixels);
        let mut errors = softmax(self.second.apply(&hidden));
        for (mut row, &label) in errors.rows_mut().into_iter().zip(labels) {
            row[label] -= 1.0;
        }
        errors /= labels.len() as f32;
        let mut back = errors.dot(&self.second.weights.t());
        Zip::from(&mut back).and(&hidden).for_each(|error, &value| {
            if value <= 0.0 {
                *error = 0.0;
            }
        });
        self.second.learn(&hidden, &errors, rate);
        self.first.learn(pixels, &back, rate);
    }

    /// The class that each image looks most like.
    pub(crate) fn answers(&self, pixels: &Array2<f32>) -> Vec<usize> {
        let scores = self.second.apply(&self.hidden(pixels));
        let best = |row: ndarray::ArrayView1<'_, f32>| {
            row.iter().enumerate().max_by(|one, other| one.1.total_cmp(other.1)).map_or(0, |(class, _)| class)
        };
        scores.rows().into_iter().map(best).collect()
    }
}

fn softmax(mut scores: Array2<f32>) -> Array2<f32> {
    for mut row in scores.rows_mut() {
        let most = row.fold(f32::NEG_INFINITY, |most, &score| most.max(score));
        row.mapv_inplace(|score| (score - most).exp());
        let sum = row.sum();
        row /= sum;
    }
    scores
}

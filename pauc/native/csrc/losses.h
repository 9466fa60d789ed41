// The cross-entropy beside the loss, and the reduction over classes.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "batch.h"

namespace pauc {

// A product of so many factors, each in (1, 2], is at most 2**1000: in the range of a double.
constexpr Size MOST_FACTORS = 1000;

// Returns the binary cross-entropy of each class, the mean over its present rows by their weight, 0
// if they weigh nothing. Writes the gradient of its part of the loss into `whole`.
template <typename T>
std::vector<double> take_entropy(const Step<T>& s) {
    std::vector<double> entropy(s.classes), product(s.classes, 1), share(s.classes);
    for (Size i = 0; i < s.rows; ++i)
        for (Size c = 0; c < s.classes; ++c)
            if (s.label(i, c) >= 0) share[c] += s.weight ? s.weight[i] : 1;
    for (Size c = 0; c < s.classes; ++c) share[c] = share[c] > 0 ? 1 / share[c] : 0;
    const double steep = s.bce_weight / (s.reduction == MEAN ? s.classes : 1);
    for (Size i = 0; i < s.rows; ++i) {
        for (Size c = 0; c < s.classes; ++c) {
            T& moves = s.whole[i * s.classes + c];
            moves = 0;
            const int label = s.label(i, c);
            if (label < 0) continue;
            const T x = s.logits[i * s.classes + c], small = std::exp(-std::abs(x));
            const T soft = (x >= 0 ? T(1) : small) / (1 + small);
            const double linear = std::max(x, T(0)) - x * label;
            if (s.weight) {
                const double part = share[c] * s.weight[i];
                entropy[c] += s.weight[i] * (linear + std::log1p(static_cast<double>(small)));
                moves = static_cast<T>(steep * part) * (soft - label);
                continue;
            }
            // The sum of log(1 + small) is the logarithm of a product: one logarithm for many rows.
            entropy[c] += linear;
            product[c] *= 1 + static_cast<double>(small);
            moves = static_cast<T>(steep * share[c]) * (soft - label);
        }
        if (i % MOST_FACTORS != 0 && i + 1 < s.rows) continue;
        for (Size c = 0; c < s.classes; ++c) {
            entropy[c] += std::log(product[c]);
            product[c] = 1;
        }
    }
    for (Size c = 0; c < s.classes; ++c) entropy[c] *= share[c];
    return entropy;
}

// Writes the loss, and returns the factor that a class's loss has in it, beside its own weight
// `of_class`. `per_class` comes with 0 for an invalid class, and leaves with nan there.
template <typename T>
double reduce(
    const Step<T>& s, const std::vector<double>& entropy, const std::vector<double>& of_class
) {
    double loss = 0, entropies = 0, weight = s.pauc_weight;
    int64_t valid = 0;
    for (Size c = 0; c < s.classes; ++c) {
        loss += of_class[c] * s.per_class[c];
        valid += s.valid[c];
        if (!s.valid[c]) s.per_class[c] = std::numeric_limits<T>::quiet_NaN();
        const double extra = s.whole ? s.bce_weight * entropy[c] : 0;
        entropies += extra;
        if (s.reduction == NONE)
            s.loss[c] = static_cast<T>(weight * of_class[c] * s.per_class[c] + extra);
    }
    if (s.reduction == NONE) return weight;
    if (s.reduction == MEAN) {
        weight /= std::max<int64_t>(valid, 1);
        entropies /= s.classes;
    }
    s.loss[0] = static_cast<T>(weight * loss + entropies);
    return weight;
}

}  // namespace pauc

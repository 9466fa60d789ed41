// One step: the loss and the gradient of all classes.

#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "band.h"
#include "batch.h"
#include "diagnostics.h"
#include "explained.h"
#include "knots.h"
#include "losses.h"
#include "pairs.h"
#include "ranks.h"
#include "rows.h"
#include "subsample.h"
#include "surrogates.h"

namespace pauc {

// A step with more pairs declines: the series of pauc/pairs/blocks.py are faster there.
constexpr double MOST_PAIRS = 1 << 25;

// Writes a class's loss and gradient. Each positive's term in `sums` is a sum over `number`
// negatives; a surrogate that compares with knots passes 1 and no negatives.
template <typename T>
void write_class(
    const Step<T>& s,
    int32_t c,
    const Band<T>& band,
    const Positives<T>& positives,
    const Negatives<T>& negatives,
    const Sums<T>& sums,
    double number
) {
    const double scale = 1 / (positives.total * number);
    s.per_class[c] = static_cast<T>(1 - sums.value * scale);
    s.valid[c] = true;
    const double steep = -scale / band.tau;
    const double of_positive = steep * s.ratio(positives.total, positives.live_total);
    for (size_t i = 0; i < positives.live; ++i)
        s.gradient[positives.row.begin[i] * s.classes + c] =
            static_cast<T>(of_positive * positives.weight[i] * sums.positive[i]);
    const double of_negative = -steep * s.ratio(number, negatives.live_total);
    for (size_t j = 0; j < negatives.live; ++j)
        s.gradient[negatives.row[j] * s.classes + c] =
            static_cast<T>(of_negative * sums.negative[j]);
}

// Scratch space that the classes of one step use in turn, so that it is allocated once.
template <typename T>
struct Scratch {
    Windows<T> windows, edge;
    std::vector<T> shares;  // of the knots
    Sample<T> sample;
    ClassRows rows;
    RowList drawn;
    std::vector<double> weight;  // of each class's loss, before `pauc_weight`
    double pairs = 0;            // how many the step has looked at so far

    explicit Scratch(const Step<T>& s)
        : windows(windows_of_band(s)),
          edge(window_of_edge(s)),
          shares(shares_of_knots(s)),
          weight(s.classes, 1) {}
};

// Writes nan as a class's loss and gradient: what a nan or infinite logit makes of them, so that a
// gradient scaler or a person sees the step.
template <typename T>
void write_nan(const Step<T>& s, const Class<T>& c) {
    s.valid[c.index] = true;
    s.per_class[c.index] = std::numeric_limits<T>::quiet_NaN();
    for (Size i = 0; i < s.rows; ++i)
        if (s.label(i, c.index) >= 0) s.gradient[i * s.classes + c.index] = s.per_class[c.index];
    if (s.measured) s.counted[LIVE_POSITIVES * s.classes + c.index] = c.own.below(s.rows).size();
}

// What has been found of a class before its positives are compared with anything.
template <typename T>
struct Found {
    const Class<T>& c;
    const Band<T>& band;
    const Window<T>& window;       // the band's
    const Positives<T>& all;       // of the numerator
    const Positives<T>& compared;  // all, or those that have been drawn
};

// Writes a class whose positives are compared with knots.
template <typename T>
void take_knots(const Step<T>& s, const Found<T>& f, const std::vector<T>& shares) {
    const Sums<T> sums = knot_sums(s, f.compared, f.band, shares);
    write_class(s, f.c.index, f.band, f.compared, {}, sums, 1);
    if (s.moving_knots) move_knots(s, f.c, f.band, f.window, f.compared, shares);
    if (s.measured) measure(s, f.c, f.band, f.window, f.all, f.compared, sums, 1);
}

// Writes a class whose positives are compared with the negatives in the band, 0 if there are none.
// Adds to the number of pairs; returns false if that has become too large.
template <typename T>
bool take_pairs(const Step<T>& s, const Found<T>& f, const Sample<T>& sample, double& pairs) {
    const bool some = is_sampled(s);
    Negatives<T> negatives = gather_negatives(s, f.c, f.band, f.window, some);
    if (negatives.score.empty()) return true;
    if (some) negatives = drawn(negatives, sample.column);
    PairSums<T> links(negatives, f.band, s.surrogate == LOGISTIC);
    pairs += links.cost(f.compared.live, f.compared.score.size() - f.compared.live);
    if (pairs > MOST_PAIRS) return false;
    const Sums<T> sums = pair_sums(s, f.compared, links);
    write_class(s, f.c.index, f.band, f.compared, negatives, sums, negatives.total);
    if (s.measured) measure(s, f.c, f.band, f.window, f.all, f.compared, sums, negatives.total);
    return true;
}

// Writes everything about a class, its loss as 0 if it is invalid. Returns false if the step
// declines: the class has scores without an order, or there are too many pairs.
template <typename T>
inline bool take_class(
    const Step<T>& s, const Rows<T>& rows, int32_t index, bool finite, Scratch<T>& scratch
) {
    Class<T> c = make_class(s, rows, index, scratch.rows);
    // A width in raw units needs negatives, and no reference rows.
    if (s.surrogate == RANKS && s.scale == UNIT) c.hidden = c.barred;
    s.per_class[index] = 0;
    s.valid[index] = s.degenerate[index] = false;
    s.ref_count[index] = count_references(s, c);
    const bool poisoned = !finite && is_poisoned(s, index);
    const bool has_band = !poisoned && count_iid_negatives(s, c) > 0;
    const int64_t last = s.ref_count[index] - 1;
    if (has_band && !find_scores(s, c, last, scratch.windows)) return false;
    const Window<T>& window = scratch.windows.window[0];
    if (s.measured) {
        measure_nothing(s, index);
        if (!measure_realised(s, c, has_band ? &window : nullptr, scratch.edge)) return false;
    }
    if (poisoned) write_nan(s, c);
    if (!has_band) return true;
    const Band<T> band = make_band(s, take_quantiles(s, c, last, scratch.windows));
    s.degenerate[index] = band.degenerate;
    const Positives<T> all = gather_positives(s, c);
    if (!band.defined || !(all.total > 0)) return true;
    if (s.explained) scratch.weight[index] = explained_weight(s, c);
    if (s.surrogate == RANKS) return write_ranks(s, c, band, all, scratch.pairs);
    Positives<T> some;
    if (is_sampled(s))
        some = drawn(all, multiplicity_of_positives(s, c, scratch.sample), scratch.drawn);
    const Found<T> found{c, band, window, all, is_sampled(s) ? some : all};
    if (s.surrogate == SIGMOID || s.surrogate == LOGISTIC)
        return take_pairs(s, found, scratch.sample, scratch.pairs);
    take_knots(s, found, scratch.shares);
    return true;
}

// Returns the factor that a class's loss has in the loss, or nothing if the step declines. What has
// been written then is without meaning, but for the bounds.
template <typename T>
inline std::optional<double> take_step(const Step<T>& s, bool validate) {
    if (validate && is_refused(s)) return {};
    if (s.max_pool > 0 && s.max_pool < s.classes) return {};  // a mistake, which Python words
    std::fill_n(s.gradient, s.rows * s.classes, T(0));
    const bool finite = all_finite(s.logits, s.rows * s.classes);
    const Rows<T> rows = sort_rows(s);
    Scratch<T> scratch(s);
    scratch.sample = draw_sample(s, rows);
    for (int32_t index = 0; index < s.classes; ++index)
        if (!take_class(s, rows, index, finite, scratch)) return {};
    std::vector<double> entropy;
    if (s.whole) entropy = take_entropy(s);
    const double weight = reduce(s, entropy, scratch.weight);
    if (s.whole)
        for (Size k = 0; k < s.rows * s.classes; ++k)
            s.whole[k] += static_cast<T>(weight * scratch.weight[k % s.classes]) * s.gradient[k];
    return weight;
}

}  // namespace pauc

// What a person can watch while training, as pauc/core/diagnostics.py and recall.py compute it.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "band.h"
#include "rows.h"
#include "surrogates.h"

namespace pauc {

// Returns the integral up to `end` of a ramp from 0 at `left` to 1 at `left + width`, which stays
// at 1 behind that.
inline double ramp_area(double end, double left, double width) {
    const double along = std::max(end - left, 0.0), on_ramp = std::min(along, width);
    return on_ramp * on_ramp / (2 * (width > 0 ? width : 1)) + (along - on_ramp);
}

// Returns the exact partial AUC over the band divided by its width, ties counting half. `window` is
// the band's, of `count` reference scores: it holds all on which the value rests, since a positive
// above it counts fully, and one below it nothing.
template <typename T>
double exact_pauc(
    const Step<T>& s, const Positives<T>& positives, const Window<T>& window, int64_t count
) {
    const double alpha = s.levels[0], beta = s.levels[s.num_knots - 1];
    std::vector<T> sorted = window.inside;
    std::sort(sorted.begin(), sorted.end());
    double area = 0;
    for (size_t i = 0; i < positives.score.size(); ++i) {
        const T score = positives.score[i];
        if (!(score > window.low)) continue;
        const auto level = std::equal_range(sorted.begin(), sorted.end(), score);
        const double above = static_cast<double>(window.above + (sorted.end() - level.second));
        const double left = above / static_cast<double>(count);
        const double width =
            static_cast<double>(level.second - level.first) / static_cast<double>(count);
        area +=
            positives.weight[i] * (ramp_area(beta, left, width) - ramp_area(alpha, left, width));
    }
    return area / (positives.total * (beta - alpha));
}

// Returns the share of the positives' weight that is above a threshold.
template <typename T>
double share_above(const Positives<T>& positives, T threshold) {
    double above = 0;
    for (size_t i = 0; i < positives.score.size(); ++i)
        if (positives.score[i] > threshold) above += positives.weight[i];
    return above / positives.total;
}

// Returns the weighted variance of the contributions, each a sum over `number` negatives.
template <typename T>
double variance(const Positives<T>& positives, const Sums<T>& sums, double number) {
    const double mean = sums.value / positives.total;
    double square = 0;
    for (size_t i = 0; i < sums.contribution.size(); ++i) {
        const double off = sums.contribution[i] - mean;
        square += positives.weight[i] * off * off;
    }
    return square / (positives.total * number * number);
}

// Returns how many iid negatives lie in the band, or for the recall above its lower edge. All
// reference rows that do are in the band's window, or above it.
template <typename T>
int64_t count_negatives(
    const Step<T>& s, const Class<T>& c, const Band<T>& band, const Window<T>& window
) {
    const T upper = band.knots.front(), lower = band.knots.back(), below = next_below(lower);
    auto counts = [&](T score) {
        return s.surrogate == RECALL ? score > lower : score > below && !(score > upper);
    };
    int64_t count = std::count_if(window.inside.begin(), window.inside.end(), counts);
    if (s.surrogate == RECALL) count += window.above;
    for_each_own_reference(s, c, [&](T score) { count -= counts(score); });
    return count;
}

// Returns the share of the batch's reference rows that are above the lower edge of the band in the
// queue alone; nan where either has none. `undefined` is set if the queue's scores have no order.
template <typename T>
T realised_fpr(const Step<T>& s, const Class<T>& c, Windows<T>& windows, bool& undefined) {
    const Class<T> held = of_queue(s, c);
    const int64_t count = count_references(s, held), fresh = count_references(s, c) - count;
    if (count == 0 || fresh == 0) return std::numeric_limits<T>::quiet_NaN();
    undefined = !find_scores(s, held, count - 1, windows);
    if (undefined) return std::numeric_limits<T>::quiet_NaN();
    const T edge = take_quantiles(s, held, count - 1, windows)[0];
    int64_t above = 0;
    walk_batch(s, c, c.hidden, [&](const T* value, Size) {
        for (int j = 0; j < BLOCK; ++j) above += value[j] > edge;
    });
    return static_cast<T>(static_cast<double>(above) / static_cast<double>(fresh));
}

// Writes what is known of a class whether it is valid or not. Returns false if its scores have no
// order.
template <typename T>
bool measure_any(const Step<T>& s, const Class<T>& c, Windows<T>& windows) {
    for (int k = 0; k < MEASURED; ++k)
        s.measured[k * s.classes + c.index] = std::numeric_limits<T>::quiet_NaN();
    for (int k = 0; k < COUNTED; ++k) s.counted[k * s.classes + c.index] = 0;
    bool undefined = false;
    if (s.surrogate != RECALL)
        s.measured[REALISED * s.classes + c.index] = realised_fpr(s, c, windows, undefined);
    return !undefined;
}

// Writes the rest of a valid class.
template <typename T>
PAUC_APART void measure(
    const Step<T>& s,
    const Class<T>& c,
    const Band<T>& band,
    const Window<T>& window,
    const Positives<T>& all,
    const Positives<T>& positives,
    const Sums<T>& sums,
    double number
) {
    auto put = [&](Measured what, double value) {
        s.measured[what * s.classes + c.index] = static_cast<T>(value);
    };
    put(TOP_EDGE, band.knots.front());
    put(LOW_EDGE, band.knots.back());
    put(WIDTH, band.tau);
    put(EXACT, s.surrogate == RECALL ? share_above(all, band.knots.back())
                                     : exact_pauc(s, all, window, s.ref_count[c.index]));
    put(VARIANCE, variance(positives, sums, number));
    s.counted[NEGATIVES * s.classes + c.index] = count_negatives(s, c, band, window);
    s.counted[LIVE_POSITIVES * s.classes + c.index] = c.own.below(s.rows).size();
}

}  // namespace pauc

// What a person can watch while training, as pauc/core/diagnostics.py and recall.py compute it.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
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

// Returns how many of the ascending scores are not above each of some others. All of these halve
// their range together, and without a branch, which could not be predicted.
template <typename T>
std::vector<int32_t> counts_up_to(const std::vector<T>& sorted, const std::vector<T>& scores) {
    std::vector<int32_t> counts(scores.size());
    for (int32_t rest = static_cast<int32_t>(sorted.size()), half; rest > 0; rest -= half) {
        half = (rest + 1) / 2;
        const T* middle = sorted.data() + half - 1;
        for (size_t i = 0; i < scores.size(); ++i)
            counts[i] += half & -static_cast<int32_t>(middle[counts[i]] <= scores[i]);
    }
    return counts;
}

// Returns the exact partial AUC over the band divided by its width, ties counting half. `window` is
// the band's, of `count` reference scores: it holds all on which the value rests, since a positive
// above it counts fully, and one below it nothing; it is not empty.
template <typename T>
double exact_pauc(
    const Step<T>& s, const Positives<T>& positives, const Window<T>& window, int64_t count
) {
    const double alpha = s.levels[0], beta = s.levels[s.num_knots - 1];
    std::vector<T> sorted = window.inside;
    std::sort(sorted.begin(), sorted.end());
    const Size total = static_cast<Size>(sorted.size());
    // What a positive has of the band that is level with the scores from `begin` to `end`.
    const auto area_of = [&](Size begin, Size end) {
        const double left = static_cast<double>(window.above + total - end) / count;
        const double width = static_cast<double>(end - begin) / count;
        return ramp_area(beta, left, width) - ramp_area(alpha, left, width);
    };
    std::vector<double> untied(total + 1);  // and what one has that is level with none
    for (Size end = 0; end <= total; ++end) untied[end] = area_of(end, end);
    const std::vector<int32_t> up_to = counts_up_to(sorted, positives.score);
    double area = 0;
    for (size_t i = 0; i < up_to.size(); ++i) {
        const T score = positives.score[i];
        double one = untied[up_to[i]];
        if (sorted[std::max(up_to[i] - 1, 0)] == score) {
            const auto level = std::equal_range(sorted.begin(), sorted.end(), score);
            one = area_of(level.first - sorted.begin(), level.second - sorted.begin());
        }
        area += positives.weight[i] * one;
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

// Returns the lower edge of the band in the queue alone, of `last + 1` reference scores; nothing if
// they have no order. The band's window, null if there is none, nearly always has that, too.
template <typename T>
std::optional<T> edge_of_queue(
    const Step<T>& s, const Class<T>& held, int64_t last, const Window<T>* band, Windows<T>& windows
) {
    const double level = s.levels[s.num_knots - 1];
    if (band) {
        Window<T> part = band->of_queue();
        part.seek(level, level, last);
        if (part.serves()) return quantile(part.inside, part.above, level, last, s.interpolation);
    }
    if (!find_scores(s, held, last, windows)) return {};
    return take_quantiles(s, held, last, windows)[0];
}

// Writes the share of the batch's reference rows that are above the lower edge of the band in the
// queue alone; nan where either has none. Returns false if the queue's scores have no order.
template <typename T>
bool measure_realised(
    const Step<T>& s, const Class<T>& c, const Window<T>* band, Windows<T>& windows
) {
    const Class<T> held = of_queue(s, c);
    const int64_t count = count_references(s, held), fresh = count_references(s, c) - count;
    if (s.surrogate == RECALL || count == 0 || fresh == 0) return true;
    const std::optional<T> edge = edge_of_queue(s, held, count - 1, band, windows);
    if (!edge) return false;
    int64_t above = 0;
    walk_batch(s, c, c.hidden, [&](const T* value, Size) {
        for (int j = 0; j < BLOCK; ++j) above += value[j] > *edge;
    });
    s.measured[REALISED * s.classes + c.index] =
        static_cast<T>(static_cast<double>(above) / static_cast<double>(fresh));
    return true;
}

// Writes what is measured of a class of which nothing is known.
template <typename T>
void measure_nothing(const Step<T>& s, Size index) {
    for (int k = 0; k < MEASURED; ++k)
        s.measured[k * s.classes + index] = std::numeric_limits<T>::quiet_NaN();
    for (int k = 0; k < COUNTED; ++k) s.counted[k * s.classes + index] = 0;
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

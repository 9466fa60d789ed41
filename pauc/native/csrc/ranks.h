// Smooth-AP: the soft ranks of a class's positives among its positives and its negatives.

#pragma once

#include <cstddef>
#include <vector>

#include "band.h"
#include "field.h"
#include "rows.h"
#include "surrogates.h"

namespace pauc {

// Up to here each pair is looked at, which takes less time than any bins.
constexpr double FEW_PAIRS = 1 << 13;
// A step with more pairs that are looked at one by one declines: the series of
// pauc/pairs/blocks.py are faster there.
constexpr double MOST_SINGLE_PAIRS = 1 << 19;

// The pull of a class's loss on the ranks of one positive.
struct Pull {
    double peers, negatives;  // minus the loss's derivative by the rank among the peers; the
                              // derivative by that among the negatives
};

// Calls `visit` with each block of the class's negatives, in the batch and in the queue.
template <typename T, typename Visit>
void for_each_negative(const Step<T>& s, const Class<T>& c, const Visit& visit) {
    for_each_block(c.live, 0, s.rows, c.barred, visit);
    for_each_block(c.held, s.rows, s.fill, c.barred, visit);
}

template <typename T>
std::vector<double> scores_of(const Step<T>& s, const Class<T>& c, Span rows) {
    std::vector<double> scores;
    for (const int32_t* at = rows.begin; at != rows.end; ++at)
        scores.push_back(*at < s.rows ? c.live[*at] : c.held[*at - s.rows]);
    return scores;
}

// Writes a class's loss and gradient. Returns false if the step declines: the queue has a score
// that is not finite, or there are too many pairs to look at.
//
// With R = 1 + the sum over other positives and B the sum over negatives, the precision at a
// positive is R / (R + B). `positives` are those that the average is over, all of the class or the
// live ones: the ranks count all.
template <typename T>
bool write_ranks(
    const Step<T>& s,
    const Class<T>& c,
    const Band<T>& band,
    const Positives<T>& positives,
    double& pairs
) {
    if (!all_finite(c.held, s.fill)) return false;
    const std::vector<double> own = scores_of(s, c, c.own);
    const size_t count = own.size(), averaged = positives.score.size(), live = positives.live;
    const Size others = s.rows + s.fill - c.barred.size();
    const double of_class = static_cast<double>(count) * static_cast<double>(others + count);
    const Axis<T> axis(own, band.tau, of_class <= FEW_PAIRS ? 0 : 4096 + s.rows + s.fill);
    if (!axis.bins) pairs += of_class;
    if (pairs > MOST_SINGLE_PAIRS) return false;

    Field<T> of_peers(axis), of_negatives(axis), pull_peers(axis), pull_negatives(axis);
    for (double score : own) of_peers.add(score, 1);
    for_each_negative(s, c, [&](const T* value, Size) { of_negatives.add_block(value); });
    const double scale = 1 / positives.total, steep = scale / band.tau;
    const double of_live =
        s.live_gradient && positives.live_total > 0 ? positives.total / positives.live_total : 1;
    std::vector<Pull> pull(averaged);
    double value = 0;
    for (size_t i = 0; i < averaged; ++i) {
        const Link peers = of_peers.at(own[i]), negatives = of_negatives.at(own[i]);
        // The pair of a positive with itself counts 1/2, and has a slope of 1/4.
        const double rank = peers.value + 0.5, all = rank + negatives.value;
        const double weight = positives.weight[i];
        value += weight * rank / all;
        pull[i] = {weight * negatives.value / (all * all), weight * rank / (all * all)};
        pull_peers.add(own[i], pull[i].peers);
        pull_negatives.add(own[i], pull[i].negatives);
        if (i >= live) continue;
        s.gradient[c.own.begin[i] * s.classes + c.index] = static_cast<T>(
            steep * of_live *
            (pull[i].peers * (peers.slope - 0.25) - pull[i].negatives * negatives.slope)
        );
    }
    s.per_class[c.index] = static_cast<T>(1 - value * scale);
    s.valid[c.index] = true;

    const double of_live_peers = s.live_gradient && live ? static_cast<double>(count) / live : 1;
    for (size_t j = 0; j < live; ++j) {
        const double slope = pull_peers.at(own[j]).slope - 0.25 * pull[j].peers;
        s.gradient[c.own.begin[j] * s.classes + c.index] -=
            static_cast<T>(steep * of_live_peers * slope);
    }
    const Size live_others = s.rows - c.barred.below(s.rows).size();
    const double of_live_others =
        s.live_gradient && live_others ? static_cast<double>(others) / live_others : 1;
    for_each_block(c.live, 0, s.rows, c.barred, [&](const T* score, Size first) {
        for (int j = 0; j < BLOCK; ++j)
            if (score[j] == score[j])
                s.gradient[(first + j) * s.classes + c.index] =
                    static_cast<T>(steep * of_live_others * pull_negatives.at(score[j]).slope);
    });
    return true;
}

}  // namespace pauc

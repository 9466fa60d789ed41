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
// A step with more pairs that are looked at for want of bins declines: the series of
// pauc/pairs/blocks.py are faster there.
constexpr double MOST_SINGLE_PAIRS = 1 << 19;
// There may be as many bins, and one for each row.
constexpr Size LEAST_BINS = 4096;

template <typename T>
std::vector<double> scores_of(const Step<T>& s, const Class<T>& c, Span rows) {
    std::vector<double> scores;
    for (const int32_t* at = rows.begin; at != rows.end; ++at)
        scores.push_back(*at < s.rows ? c.live[*at] : c.held[*at - s.rows]);
    return scores;
}

// A class whose ranks are taken, and the fields that its rows are in. A precision is R / (R + B),
// with R = 1 + the sum over other positives and B the sum over negatives. The pulls are sources at
// the positives, as strong as the class's loss falls with R and rises with B.
template <typename T>
struct Ranks {
    const Step<T>& s;
    const Class<T>& c;
    const Positives<T>& positives;  // those that the average is over, all or the live ones
    std::vector<double> own;        // the scores of all positives, those of `positives` first
    Size others;                    // how many negatives there are
    Field<T> peers, negatives, pull_on_peers, pull_on_negatives;
    std::vector<double> pull;  // [positives], those on the peers

    Ranks(
        const Step<T>& step,
        const Class<T>& one,
        const Positives<T>& averaged,
        const std::vector<double>& scores,
        const Axis<T>& axis
    )
        : s(step),
          c(one),
          positives(averaged),
          own(scores),
          others(s.rows + s.fill - c.barred.size()),
          peers(axis),
          negatives(axis),
          pull_on_peers(axis),
          pull_on_negatives(axis) {
        for (double score : own) peers.add(score, 1);
        const auto add = [&](const T* score, Size) { negatives.add_block(score); };
        for_each_block(c.live, 0, s.rows, c.barred, add);
        for_each_block(c.held, s.rows, s.fill, c.barred, add);
    }

    T& gradient(Size row) const { return s.gradient[row * s.classes + c.index]; }

    // Returns the weighted sum of the precisions. Writes the gradient of each live positive by what
    // its own precision loses, and adds its pulls.
    double take_precisions(double steep) {
        steep *= s.ratio(positives.total, positives.live_total);
        double sum = 0;
        for (size_t i = 0; i < positives.score.size(); ++i) {
            const Link same = peers.at(own[i]), other = negatives.at(own[i]);
            // The pair of a positive with itself counts 1/2, with a slope of 1/4.
            const double rank = same.value + 0.5, all = rank + other.value;
            const double weight = positives.weight[i] / (all * all);
            const double by_peers = weight * other.value, by_others = weight * rank;
            sum += weight * rank * all;
            pull.push_back(by_peers);
            pull_on_peers.add(own[i], by_peers);
            pull_on_negatives.add(own[i], by_others);
            if (i < positives.live)
                gradient(c.own.begin[i]) = static_cast<T>(
                    steep * (by_peers * (same.slope - 0.25) - by_others * other.slope)
                );
        }
        return sum;
    }

    // Adds the gradient of each live positive by what other precisions gain.
    void add_pull_on_peers(double steep) {
        steep *= s.ratio(static_cast<double>(own.size()), static_cast<double>(positives.live));
        for (size_t j = 0; j < positives.live; ++j) {
            const double slope = pull_on_peers.at(own[j]).slope - 0.25 * pull[j];
            gradient(c.own.begin[j]) -= static_cast<T>(steep * slope);
        }
    }

    // Writes the gradient of each live negative.
    void write_negatives(double steep) {
        const Size live = s.rows - c.barred.below(s.rows).size();
        steep *= s.ratio(static_cast<double>(others), static_cast<double>(live));
        for_each_block(c.live, 0, s.rows, c.barred, [&](const T* score, Size first) {
            for (int j = 0; j < BLOCK; ++j)
                if (score[j] == score[j])
                    gradient(first + j) =
                        static_cast<T>(steep * pull_on_negatives.at(score[j]).slope);
        });
    }
};

// Writes a class's loss and gradient. Returns false if the step declines: the queue has a score
// that is not finite, or there are too many pairs to look at. `pairs` is how many the step has.
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
    const Size total = s.rows + s.fill;
    const double of_class = static_cast<double>(own.size()) * static_cast<double>(total);
    const Axis<T> axis(own, band.tau, of_class <= FEW_PAIRS ? 0 : LEAST_BINS + total);
    if (!axis.bins && of_class > FEW_PAIRS) pairs += of_class;
    if (pairs > MOST_SINGLE_PAIRS) return false;
    Ranks<T> ranks(s, c, positives, own, axis);
    const double scale = 1 / positives.total, steep = scale / band.tau;
    s.per_class[c.index] = static_cast<T>(1 - ranks.take_precisions(steep) * scale);
    s.valid[c.index] = true;
    ranks.add_pull_on_peers(steep);
    ranks.write_negatives(steep);
    return true;
}

}  // namespace pauc

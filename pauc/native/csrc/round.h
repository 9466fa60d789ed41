// A boosting round of a class against the rest: the log-loss of all rows, and the pairs of each
// positive with the negatives in the band.
//
// The numbers are those of pauc/boosting/derivatives.py, which is the readable account of them, and
// has the rows of other workers as well. Nothing here is checked but that both sides have a weight,
// and the band a row.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "band.h"
#include "exponential.h"
#include "log_loss.h"
#include "round_rows.h"
#include "sweep.h"

namespace pauc {

// Returns the score of a rank from the top; the order of the scores is lost.
inline double score_of_rank(std::vector<double>& scores, size_t rank) {
    std::nth_element(scores.begin(), scores.begin() + rank, scores.end(), std::greater<double>());
    return scores[rank];
}

// Returns a score that, by a sample, none of the `depth` highest negatives is below; it may be
// mistaken. As `_at_least` of pauc/boosting/band.py.
inline double guess_lowest(const Round& r, size_t depth) {
    constexpr size_t sample_size = 16384;
    const size_t stride = std::max<size_t>(1, r.rows / sample_size);
    std::vector<double> sample;
    sample.reserve(r.rows / stride + 1);
    IsBarred is_barred{r};
    for (size_t row = 0; row < r.rows; row += stride)
        if (!is_barred(static_cast<int64_t>(row))) sample.push_back(r.score[row]);
    const double share = static_cast<double>(depth) / static_cast<double>(stride);
    const auto place = static_cast<size_t>(std::ceil(share + 4 * std::sqrt(share) + 4));
    if (place > sample.size()) return -std::numeric_limits<double>::infinity();
    return score_of_rank(sample, place - 1);
}

inline double exact_lowest(const Round& r, size_t depth) {
    std::vector<double> scores;
    IsBarred is_barred{r};
    for (size_t row = 0; row < r.rows; ++row)
        if (!is_barred(static_cast<int64_t>(row))) scores.push_back(r.score[row]);
    return score_of_rank(scores, depth - 1);
}

// Adds the rows of a block whose score is at least `lowest`.
inline void append_from(
    const Round& r, size_t begin, size_t end, double lowest, std::vector<int64_t>& found
) {
    size_t count = found.size();
    found.resize(count + (end - begin));
    for (size_t row = begin; row < end; ++row) {
        found[count] = static_cast<int64_t>(row);
        count += r.score[row] >= lowest;
    }
    found.resize(count);
}

inline void drop_barred(const Round& r, std::vector<int64_t>& rows) {
    size_t kept = 0;
    IsBarred is_barred{r};
    for (const int64_t row : rows)
        if (!is_barred(row)) rows[kept++] = row;
    rows.resize(kept);
}

// Writes the log-loss of all rows as if they were negatives, and returns the negatives from
// `lowest` on. Both are done by blocks, whose scores are then read from memory once.
inline std::vector<int64_t> pass_all_rows(const Round& r, double lowest) {
    constexpr size_t block = 2048;
    std::vector<int64_t> found;
    LogLoss l{};
    l.factor = r.bce_weight;
    l.largest_step = r.largest_step;
    l.least_curvature = r.least_curvature;
    for (size_t begin = 0; begin < r.rows; begin += block) {
        const size_t end = std::min(begin + block, r.rows);
        l.rows = end - begin;
        l.score = r.score + begin;
        l.weight = r.weight ? r.weight + begin : nullptr;
        l.gradient = r.gradient + begin;
        l.hessian = r.hessian + begin;
        dispatch_log_loss(l);
        append_from(r, begin, end, lowest, found);
    }
    drop_barred(r, found);
    return found;
}

// Returns the weight down to the middle of the part that a rank from the top stands for, in units
// of the mean weight. Weights that add up to it but for rounding reach it, whatever their scale is.
inline double middle_of(const Side& all, double rank) {
    constexpr double rounding = 1e-12;
    return (rank + 0.5) * (all.weight / static_cast<double>(all.count) * (1 + rounding));
}

// Returns the scores of some ranks, ascending: of the rows in which those middles lie. `top` holds
// the highest negatives, and what it does not reach is its lowest.
inline std::vector<double> scores_of_ranks(
    const Ordered& top, const Side& all, const std::vector<double>& ranks
) {
    std::vector<double> found;
    double reached = 0;
    size_t k = top.score.size();
    for (const double rank : ranks) {
        while (k > 0 && reached <= middle_of(all, rank)) reached += top.weight[--k];
        found.push_back(top.score[k]);
    }
    return found;
}

// The band's edges, from above and from below.
struct Edges {
    double high, low;
};

inline Edges edges_of(const Round& r, const Ordered& top, const Side& all) {
    const double last = static_cast<double>(all.count - 1);
    const double high = r.alpha * last, low = r.beta * last;
    const std::vector<double> at_high =
        scores_of_ranks(top, all, {std::floor(high), std::ceil(high)});
    const std::vector<double> at_low = scores_of_ranks(top, all, {std::floor(low), std::ceil(low)});
    const auto edge = [&](const std::vector<double>& at, double position) {
        return interpolated(at[0], at[1], position, static_cast<int64_t>(last), r.interpolation);
    };
    return {edge(at_high, high), edge(at_low, low)};
}

// Returns negatives in ascending order, down to the band's end at least. Writes the log-loss of all
// rows, as if they were negatives.
inline Ordered top_negatives(const Round& r, const Side& all) {
    const double last_rank = std::ceil(r.beta * static_cast<double>(all.count - 1));
    size_t depth = static_cast<size_t>(last_rank) + 1;
    std::vector<int64_t> found = pass_all_rows(r, guess_lowest(r, depth));
    while (true) {
        if (found.size() < depth) {
            found.clear();
            append_from(r, 0, r.rows, exact_lowest(r, depth), found);
            drop_barred(r, found);
        }
        Ordered top = order_by_score(r, found.data(), found.size());
        const double reached = std::accumulate(top.weight.rbegin(), top.weight.rend(), 0.0);
        if (found.size() >= all.count || reached > middle_of(all, last_rank)) return top;
        depth = std::min(all.count, 2 * depth);  // of heavy weight are others
    }
}

// Distinct scores, what the rows of each weigh, and which of them each row has.
struct Distinct {
    std::vector<double> score, weight;
    std::vector<size_t> place;
};

inline Distinct distinct(const Ordered& rows, size_t first, size_t end) {
    Distinct d;
    for (size_t k = first; k < end; ++k) {
        if (d.score.empty() || d.score.back() != rows.score[k]) {
            d.score.push_back(rows.score[k]);
            d.weight.push_back(0);
        }
        d.weight.back() += rows.weight[k];
        d.place.push_back(d.score.size() - 1);
    }
    return d;
}

// Writes a row of a label that pairs pull at, log-loss included.
inline void write_pulled(
    const Round& r, const Ordered& rows, size_t k, int label, double slope, double curvature
) {
    const double z = exp_of_minus(rows.score[k]), sigmoid = 1 / (1 + z), rest = z * sigmoid;
    const double of_log_loss = label ? -rest : sigmoid;
    r.write(
        rows.row[k], r.bce_weight * of_log_loss + slope, r.bce_weight * sigmoid * rest + curvature
    );
}

// Writes the rows of the pairs. The band is from the negative `first` up to `end`.
inline void write_pairs(
    const Round& r, const Ordered& positives, const Ordered& negatives, size_t first, size_t end
) {
    const Distinct band = distinct(negatives, first, end);
    std::vector<double> of_positives(2 * r.positives), of_negatives(2 * band.score.size());
    sweep_both(
        {r.positives, positives.score.data(), positives.weight.data(), of_positives.data()},
        {band.score.size(), band.score.data(), band.weight.data(), of_negatives.data()}, r.terms, 2
    );
    const double scale =
        r.pauc_weight / std::accumulate(band.weight.begin(), band.weight.end(), 0.0);
    for (size_t k = 0; k < r.positives; ++k) {
        const double *slope = &of_positives[k], *curvature = slope + r.positives;
        write_pulled(r, positives, k, 1, -scale * *slope, -scale * *curvature);
    }
    for (size_t k = first; k < end; ++k) {
        const double* slope = &of_negatives[band.place[k - first]];
        const double* curvature = slope + band.score.size();
        write_pulled(r, negatives, k, 0, scale * *slope, -scale * *curvature);
    }
}

// Returns false if a side has no weight, or no negative lies in the band. What has been written
// then is without meaning.
inline bool take_round(const Round& r) {
    const Side all = all_negatives(r);
    if (!all.count || !positives_weigh(r)) return false;
    const Ordered negatives = top_negatives(r, all);
    const Edges edges = edges_of(r, negatives, all);
    const auto begin = negatives.score.begin();
    const auto first = std::lower_bound(begin, negatives.score.end(), edges.low);
    const auto end = std::upper_bound(begin, negatives.score.end(), edges.high);
    if (first >= end) return false;
    const Ordered positives = order_by_score(r, r.positive, r.positives);
    write_pairs(
        r, positives, negatives, static_cast<size_t>(first - begin),
        static_cast<size_t>(end - begin)
    );
    return true;
}

}  // namespace pauc

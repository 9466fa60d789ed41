// The rows of a boosting round, and which of them are the negatives that count.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "order.h"
#include "sweep.h"

namespace pauc {

struct Round {
    size_t rows, positives;
    const double* score;      // [rows]
    const int64_t* positive;  // [positives] rows, ascending; all others are negatives
    const double* weight;     // [rows], none negative; null: ones
    double alpha, beta;
    int interpolation;
    double bce_weight, pauc_weight, largest_step, least_curvature;
    const Term* terms;           // what a pair pulls with, and how that changes
    double *gradient, *hessian;  // [rows], written to

    double weight_of(size_t row) const { return weight ? weight[row] : 1; }

    // Writes a row: what pulls at it, and how that changes.
    void write(size_t row, double slope, double curvature) const {
        const double bound = std::max(std::abs(slope) / largest_step, least_curvature);
        gradient[row] = weight_of(row) * slope;
        hessian[row] = weight_of(row) * std::max(curvature, bound);
    }
};

// Tells the positives, and what weighs nothing, from the negatives that count; for rows that are
// asked for in ascending order.
struct IsBarred {
    const Round& r;
    size_t passed = 0;

    bool operator()(int64_t row) {
        while (passed < r.positives && r.positive[passed] < row) ++passed;
        return (passed < r.positives && r.positive[passed] == row) || !(r.weight_of(row) > 0);
    }
};

// How many negatives count, and what they weigh together.
struct Side {
    size_t count;
    double weight;
};

inline Side all_negatives(const Round& r) {
    if (!r.weight) return {r.rows - r.positives, static_cast<double>(r.rows - r.positives)};
    Side side{0, 0};
    IsBarred is_barred{r};
    for (size_t row = 0; row < r.rows; ++row) {
        const bool counts = !is_barred(static_cast<int64_t>(row));
        side.count += counts;
        side.weight += counts ? r.weight[row] : 0;
    }
    return side;
}

inline bool positives_weigh(const Round& r) {
    return std::any_of(r.positive, r.positive + r.positives, [&](int64_t row) {
        return r.weight_of(row) > 0;
    });
}

// Rows in ascending order of their scores.
struct Ordered {
    std::vector<int64_t> row;
    std::vector<double> score, weight;
};

inline Ordered order_by_score(const Round& r, const int64_t* rows, size_t count) {
    std::vector<double> score(count);
    for (size_t k = 0; k < count; ++k) score[k] = r.score[rows[k]];
    std::vector<int64_t> order(count);
    order_rows(score.data(), count, order.data());
    Ordered ordered;
    ordered.row.resize(count);
    ordered.score.resize(count);
    ordered.weight.resize(count);
    for (size_t k = 0; k < count; ++k) {
        ordered.row[k] = rows[order[k]];
        ordered.score[k] = score[order[k]];
        ordered.weight[k] = r.weight_of(ordered.row[k]);
    }
    return ordered;
}

}  // namespace pauc

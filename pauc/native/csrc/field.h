// The sum of weighted sigmoids over many sources on a line, at many places, in linear time.
//
// The line is cut into bins of a fraction of tau. A bin keeps the moments of its sources around its
// middle. A Taylor series of the sigmoid turns the moments of the bins nearby into one polynomial
// for each bin in which a sum is asked for. The sigmoid has its nearest pole at a distance of pi,
// and source and place are within a bin's width of the middles together, so that the series errs by
// (width / pi) ** TERMS<T> for a source. Far from 0, the sigmoid of u is exp(u) - exp(2 u) + ...,
// or 1 less that of -u; and sums of exponentials are carried from bin to bin. Where too many bins
// would be needed, or there are few pairs, each pair is looked at.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "pairs.h"

namespace pauc {

constexpr int LANES = 4;  // bins, or terms of a series, that are worked on at once

constexpr int BINS_PER_TAU = 4;
// The bins on either side of one whose moments are looked at.
constexpr int NEAR = 5 * BINS_PER_TAU;
// These and itself, filled up to whole lanes.
constexpr int WITHIN = (2 * NEAR + 1 + LANES - 1) / LANES * LANES;

// How long the series are, for scores of a dtype: (1 / (4 pi)) ** 8 is 2e-9, and (1 / (4 pi)) ** 12
// 6e-14.
template <typename T>
constexpr int TERMS = sizeof(T) == 4 ? 8 : 12;
// How many exponentials: what is left out is less than exp(-30) or exp(-40) where they are used.
template <typename T>
constexpr int FAR = sizeof(T) == 4 ? 5 : 7;
// Out of reach a sigmoid is less than exp(-30), or exp(-40), from 0 or 1.
template <typename T>
constexpr int REACH = BINS_PER_TAU * (sizeof(T) == 4 ? 30 : 40);

// The derivatives of the sigmoid between the middle of a bin and those nearby, in units of bins: of
// order n, times 1 / BINS_PER_TAU ** n.
template <typename T>
struct Derivatives {
    double order[TERMS<T>][WITHIN] = {};

    Derivatives() {
        for (int d = -NEAR; d <= NEAR; ++d) fill(d);
    }

    // Fills one distance. From s' = s - s ** 2 the coefficients of the series follow one by one.
    // On the side where the sigmoid is small nothing cancels; the other side is its mirror image.
    void fill(int d) {
        const double small = std::exp(-std::abs(d) / static_cast<double>(BINS_PER_TAU));
        double a[TERMS<T>] = {small / (1 + small)}, unit = 1;
        for (int n = 0; n + 1 < TERMS<T>; ++n) {
            double product = 0;
            for (int l = 0; l <= n; ++l) product += a[l] * a[n - l];
            a[n + 1] = (a[n] - product) / (n + 1);
        }
        for (int n = 0; n < TERMS<T>; ++n) {
            const double mirrored = n == 0 ? 1 - a[0] : n % 2 ? a[n] : -a[n];
            order[n][d + NEAR] = (d > 0 ? mirrored : a[n]) * unit;
            unit *= (n + 1.0) / BINS_PER_TAU;
        }
    }
};

// Where the bins are. Bin MARGIN begins at the lowest score of a class's positives.
template <typename T>
struct Axis {
    // Scores farther from the positives than REACH are put just beyond it; and a place there still
    // has NEAR bins on either side.
    static constexpr Size MARGIN = REACH<T> + NEAR + 2;

    double lowest, tau, per_bin;
    double first, end;  // the places, in bins, that scores are put to at most
    Size bins = 0;      // 0: each pair is looked at

    Axis(const std::vector<double>& positives, double width, Size most_bins) : tau(width) {
        const auto ends = std::minmax_element(positives.begin(), positives.end());
        lowest = *ends.first;
        per_bin = BINS_PER_TAU / tau;
        const double span = (*ends.second - lowest) * per_bin;
        first = MARGIN - REACH<T> - 2;
        end = MARGIN + span + REACH<T> + 2;
        if (span < most_bins) bins = static_cast<Size>(end) + 1 + NEAR + LANES;
    }

    // The place of a score in bins; nan is put where it counts for nothing.
    double place(double score) const {
        const double at = (score - lowest) * per_bin + MARGIN;
        return at > first ? (at < end ? at : end) : first;
    }
};

// The field of some sources: at a score x the sum of `weight * sigmoid((source - x) / tau)`.
// Weights are not negative. First all sources are added, then sums are asked for.
template <typename T>
class Field {
  public:
    explicit Field(const Axis<T>& axis) : axis_(axis), moments_(axis.bins * TERMS<T>) {}

    void add(double score, double weight) {
        if (axis_.bins)
            put(axis_.place(score), weight);
        else
            sources_.push_back({score, weight});
    }

    // Adds a block of scores of weight 1; those that are nan are left out.
    void add_block(const T* score) {
        if (!axis_.bins) {
            for (int j = 0; j < BLOCK; ++j)
                if (score[j] == score[j]) sources_.push_back({score[j], 1});
            return;
        }
        double place[BLOCK];
        for (int j = 0; j < BLOCK; ++j) place[j] = axis_.place(score[j]);
        for (int j = 0; j < BLOCK; ++j) put(place[j], 1);
    }

    // Returns the sum at a score, and its slope by the sources (minus that by the score) in units
    // of tau.
    Link at(double score) {
        if (!axis_.bins) return singly(score);
        if (by_order_.empty()) close();
        const double place = axis_.place(score);
        const Size bin = static_cast<Size>(place);
        double* series = polynomials_.data() + bin * TERMS<T>;
        if (!known_[bin]) expand(bin, series);
        const double r = place - bin - 0.5;
        double value = 0, slope = 0;
        for (int m = TERMS<T> - 1; m >= 0; --m) {
            slope = slope * r + value;
            value = value * r + series[m];
        }
        return {value, -slope * BINS_PER_TAU};
    }

  private:
    struct Source {
        double score, weight;
    };

    const Axis<T>& axis_;
    std::vector<double> moments_;      // [bins, TERMS<T>], of the sources of each bin
    std::vector<double> by_order_;     // [TERMS<T>, bins], the same over k!, once all are added
    std::vector<double> above_;        // [bins + 1], the weight of all sources from a bin on
    std::vector<double> below_far_;    // [bins, FAR<T>], see `carry`: of the sources far below
    std::vector<double> above_far_;    // and of those far above
    std::vector<double> polynomials_;  // [bins, TERMS<T>], the sum around the middle of each bin
    std::vector<char> known_;          // [bins], whether that is filled in
    std::vector<Source> sources_;      // where there are no bins

    void put(double place, double weight) {
        const Size bin = static_cast<Size>(place);
        const double t = place - bin - 0.5, square = t * t;
        double power[LANES] = {weight, weight * t, weight * square, weight * square * t};
        double* moment = moments_.data() + bin * TERMS<T>;
        const double next = square * square;
        for (int k = 0; k < TERMS<T>; k += LANES)
            for (int l = 0; l < LANES; ++l) {
                moment[k + l] += power[l];
                power[l] *= next;
            }
    }

    void close() {
        const Size bins = axis_.bins;
        by_order_.resize(bins * TERMS<T>);
        polynomials_.resize(bins * TERMS<T>);
        known_.resize(bins);
        above_.resize(bins + 1);
        double factorial = 1;
        for (int k = 0; k < TERMS<T>; ++k) {
            for (Size b = 0; b < bins; ++b)
                by_order_[k * bins + b] = moments_[b * TERMS<T> + k] / factorial;
            factorial *= k + 1;
        }
        for (Size b = bins; b-- > 0;) above_[b] = above_[b + 1] + by_order_[b];
        below_far_ = carry(1);
        above_far_ = carry(-1);
    }

    // Returns, for the middle of each bin, the sums of exp(-p * distance / tau) for p = 1, ...,
    // over the sources that are more than NEAR bins below (`side` 1) or above (-1) its bin.
    std::vector<double> carry(int side) const {
        const Size bins = axis_.bins;
        double rate[FAR<T>], fall[FAR<T>], entry[FAR<T>], sum[FAR<T>] = {};
        for (int p = 0; p < FAR<T>; ++p) {
            rate[p] = side * (p + 1.0) / BINS_PER_TAU;
            fall[p] = std::exp(-std::abs(rate[p]));
            entry[p] = std::exp(-std::abs(rate[p]) * (NEAR + 1));
        }
        std::vector<double> far(bins * FAR<T>);
        for (Size step = NEAR + 1; step < bins; ++step) {
            const Size bin = side > 0 ? step : bins - 1 - step, from = bin - side * (NEAR + 1);
            for (int p = 0; p < FAR<T>; ++p) {
                double of_bin = 0;  // of the sources of one bin, around its middle
                for (int k = TERMS<T> - 1; k >= 0; --k)
                    of_bin = of_bin * rate[p] + by_order_[k * bins + from];
                sum[p] = sum[p] * fall[p] + of_bin * entry[p];
                far[bin * FAR<T> + p] = sum[p];
            }
        }
        return far;
    }

    // Adds the derivatives of what `carry` has summed, in units of bins, to the terms of a series.
    void add_far(Size bin, double (&sum)[TERMS<T>][LANES]) const {
        double sign = 1;
        for (int p = 0; p < FAR<T>; ++p) {
            const double rate = (p + 1.0) / BINS_PER_TAU;
            double below = sign * below_far_[bin * FAR<T> + p];
            double above = -sign * above_far_[bin * FAR<T> + p];
            for (int m = 0; m < TERMS<T>; ++m) {
                sum[m][0] += below + above;
                below *= rate;
                above *= -rate;
            }
            sign = -sign;
        }
    }

    // Writes the sum around the middle of a bin, as a polynomial in the distance from it.
    void expand(Size bin, double* series) {
        static const Derivatives<T> sigmoid;
        const double* moment = by_order_.data() + bin - NEAR;
        double sum[TERMS<T>][LANES] = {};
        for (int d = 0; d < WITHIN; d += LANES) {
            double weight = 0;
            for (int l = 0; l < LANES; ++l) weight += moment[d + l];
            if (weight == 0) continue;
            for (int m = 0; m < TERMS<T>; ++m) {
                double one[LANES] = {};
                for (int k = 0; k + m < TERMS<T>; ++k)
                    for (int l = 0; l < LANES; ++l)
                        one[l] += sigmoid.order[k + m][d + l] * moment[k * axis_.bins + d + l];
                for (int l = 0; l < LANES; ++l) sum[m][l] += one[l];
            }
        }
        sum[0][0] += above_[bin + NEAR + 1];
        add_far(bin, sum);
        double factor = 1;  // (-1) ** m / m!
        for (int m = 0; m < TERMS<T>; ++m) {
            series[m] = factor * (sum[m][0] + sum[m][1] + sum[m][2] + sum[m][3]);
            factor /= -(m + 1);
        }
        known_[bin] = true;
    }

    Link singly(double score) const {
        Link total{0, 0};
        for (const Source& source : sources_) {
            const Link one = link_of((source.score - score) / axis_.tau, false);
            total.value += source.weight * one.value;
            total.slope += source.weight * one.slope;
        }
        return total;
    }
};

}  // namespace pauc

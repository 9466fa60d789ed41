// The quantiles of a class's reference scores, and the band that they make.

#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "rows.h"
#include "windows.h"

namespace pauc {

template <typename T>
struct Band {
    std::vector<T> knots;  // thresholds, descending; the first and the last are the band's edges
    T tau;                 // width of the link
    bool defined;          // there is dispersion, so that `tau` can be divided by
    bool degenerate;       // there is none; neither holds if a score among the quantiles is nan
};

// Returns the value at descending `position` between its neighbours `high` and `low`, as
// `pauc.core.quantiles.interpolate` does.
template <typename T>
T interpolated(T high, T low, double position, int64_t last, int kind) {
    auto lerp = [&](T t) {
        return t < T(0.5) ? high + t * (low - high) : low - (low - high) * (1 - t);
    };
    switch (kind) {
        case HIGHER:
            return high;
        case LOWER:
            return low;
        case MIDPOINT:
            return lerp(T(0.5));
        case LINEAR:
            return lerp(static_cast<T>(position - std::floor(position)));
        default:  // the ascending position is rounded, half to even
            return std::nearbyint(last - position) == last - std::floor(position) ? high : low;
    }
}

// Returns the quantile at an FPR. `scores` are those of a window that serves its rank, with `above`
// more above them; their order is lost.
template <typename T>
T quantile(std::vector<T>& scores, int64_t above, double level, int64_t last, int kind) {
    const double position = level * static_cast<double>(last);
    const int64_t high = static_cast<int64_t>(std::floor(position)) - above;
    const int64_t low = static_cast<int64_t>(std::ceil(position)) - above;
    std::nth_element(scores.begin(), scores.begin() + high, scores.end(), std::greater<T>());
    T below = scores[high];
    if (low > high && kind != HIGHER)
        below = *std::max_element(scores.begin() + high + 1, scores.end());
    return interpolated(scores[high], below, position, last, kind);
}

// Returns a class's quantiles, the knots and then the quartiles, and writes the bounds for the next
// step. Every window must serve.
template <typename T>
std::vector<T> take_quantiles(
    const Step<T>& s, const Class<T>& c, int64_t last, const Windows<T>& windows
) {
    std::vector<T> found;
    T* bounds = windows.bounds_of(s, c.index);
    for (int w = 0; w < windows.count; ++w) {
        const Window<T>& window = windows.window[w];
        std::vector<T> scores = window.inside;
        const size_t first = found.size();
        for (Size k = 0; k < (w == 0 ? windows.num_levels : 1); ++k) {
            const double level = w == 0 ? windows.levels[k] : windows.top[w];
            found.push_back(quantile(scores, window.above, level, last, s.interpolation));
        }
        const int64_t margin = margin_of(s, windows.bottom[w]);
        move_bounds(window, found[first], found.back(), scores, margin, bounds + 2 * w);
    }
    return found;
}

// Returns the difference, 0 where it is within rounding of the two; as `pauc.core.band.dispersion`.
template <typename T>
T dispersion(T upper, T lower) {
    const T spread = upper - lower;
    const T rounding =
        4 * std::numeric_limits<T>::epsilon() * std::max(std::abs(upper), std::abs(lower));
    return spread <= rounding && std::isfinite(rounding) ? 0 : spread;
}

template <typename T>
Band<T> make_band(const Step<T>& s, const std::vector<T>& quantiles) {
    const auto knots_end = quantiles.begin() + s.num_knots;
    T spread = 1;
    if (s.scale == IQR) spread = dispersion(knots_end[0], knots_end[1]);
    if (s.scale == BAND) spread = dispersion(quantiles[0], knots_end[-1]);
    Band<T> band{
        {quantiles.begin(), knots_end}, static_cast<T>(s.temperature) * spread, false, false
    };
    band.degenerate = band.tau <= std::numeric_limits<T>::min();
    band.defined = band.tau > std::numeric_limits<T>::min();  // false for nan
    return band;
}

}  // namespace pauc

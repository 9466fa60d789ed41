// Windows of scores around the ranks that are sought.
//
// A quantile is looked for in a *window*: the scores between two bounds, collected in one pass that
// also counts the scores above them. The count decides: a window serves a rank if and only if
// `above <= rank < above + inside.size()`. Bounds come from the last step, then from a sample, then
// from all scores; so whatever they are, the quantiles are exact.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <vector>

#include "rows.h"

namespace pauc {

// A sample has SAMPLE * n ** (2 / 3) of n scores: sampling and the window that the sample bounds
// then cost about the same (Floyd and Rivest 1975).
constexpr double SAMPLE = 3;

template <typename T>
struct Window {
    T low, high;            // the window holds the scores in (low, high]
    int64_t first, last;    // the descending ranks sought, first <= last; 0 is the largest score
    int64_t above;          // how many reference scores are above `high`
    std::vector<T> inside;  // in the order of the rows
    size_t live;            // how many of them are the batch's; these come first
    int64_t live_above;     // how many of those above `high` are the batch's

    // Seeks the quantiles between two FPRs, of `last + 1` reference scores.
    void seek(double top, double bottom, int64_t last_rank) {
        first = static_cast<int64_t>(std::floor(top * static_cast<double>(last_rank)));
        last = static_cast<int64_t>(std::ceil(bottom * static_cast<double>(last_rank)));
    }

    // Whether all ranks sought are inside.
    bool serves() const {
        return first >= above && last < above + static_cast<int64_t>(inside.size());
    }

    // Returns the window of the queue's scores alone.
    Window of_queue() const {
        Window part{low, high, first, last, above - live_above, {}, 0, 0};
        part.inside.assign(inside.begin() + live, inside.end());
        return part;
    }
};

// Calls `visit(j, is_between)` for some scores of a block, all those in (low, high] among them, and
// returns how many are above `high`. Nan is neither.
template <typename T, typename Visit>
int visit_between(const T* value, T low, T high, const Visit& visit) {
    uint8_t between[BLOCK];
    int above = 0;
    for (int j = 0; j < BLOCK; ++j) {
        above += value[j] > high;
        between[j] = (value[j] > low) & !(value[j] > high);
    }
    for (int first = 0; first < BLOCK; first += 8) {
        uint64_t some;  // eight flags at once: most are all 0
        std::memcpy(&some, between + first, sizeof some);
        if (some == 0) continue;
        for (int j = first; j < first + 8; ++j) visit(j, between[j]);
    }
    return above;
}

// Makes sure that a block of values can be written behind the first `used` ones.
template <typename T>
void make_room(std::vector<T>& values, size_t used) {
    if (values.size() < used + BLOCK) values.resize(2 * used + BLOCK);
}

// The windows of one class. They serve class after class, for the room that they have.
template <typename T>
struct Windows {
    Window<T> window[BAND_WINDOWS];
    double top[BAND_WINDOWS], bottom[BAND_WINDOWS];  // the FPRs between which a window is sought
    const double* levels;  // [num_levels] FPRs that are looked for in the first window
    Size num_levels;
    int count, slot;  // how many windows, and where the bounds of the first of them are kept

    T* bounds_of(const Step<T>& s, int32_t index) const {
        return s.bounds + (index * MAX_WINDOWS + slot) * 2;
    }
};

// Around the band and, if the scale is the interquartile range, around both quartiles.
template <typename T>
Windows<T> windows_of_band(const Step<T>& s) {
    const double last = s.levels[s.num_knots - 1];
    const int count = s.scale == IQR ? BAND_WINDOWS : 1;
    return {{}, {s.levels[0], 0.25, 0.75}, {last, 0.25, 0.75}, s.levels, s.num_knots, count, 0};
}

// Around the band's lower edge alone, for rows that are not the whole pool.
template <typename T>
Windows<T> window_of_edge(const Step<T>& s) {
    const double* last = s.levels + s.num_knots - 1;
    return {{}, {*last}, {*last}, last, 1, 1, BAND_WINDOWS};
}

// Collects the scores between the bounds of all windows, and counts those above, in one pass.
template <typename T>
void fill_windows(const Step<T>& s, const Class<T>& c, Windows<T>& windows) {
    size_t used[BAND_WINDOWS] = {};
    for (Window<T>& window : windows.window) window.above = 0;
    auto fill = [&](const T* value, Size) {
        for (int w = 0; w < windows.count; ++w) {
            Window<T>& window = windows.window[w];
            make_room(window.inside, used[w]);
            T* inside = window.inside.data();
            size_t end = used[w];
            // Written always, kept if it is between: a branch could not be predicted.
            window.above += visit_between(value, window.low, window.high, [&](int j, size_t is) {
                inside[end] = value[j];
                end += is;
            });
            used[w] = end;
        }
    };
    walk_batch(s, c, c.hidden, fill);
    for (int w = 0; w < windows.count; ++w) {
        Window<T>& window = windows.window[w];
        window.live = used[w];
        window.live_above = window.above;
    }
    walk_queue(s, c, c.hidden, fill);
    for (int w = 0; w < windows.count; ++w) windows.window[w].inside.resize(used[w]);
}

template <typename T>
T next_below(T value) {
    return std::nextafter(value, -std::numeric_limits<T>::infinity());
}

// Puts the bounds at two descending ranks of `scores`, whose order is lost. A bound for whose rank
// there is no score stays as it is.
template <typename T>
void bound_by_ranks(Window<T>& window, std::vector<T>& scores, int64_t upper, int64_t lower) {
    const auto from = scores.begin(), to = scores.end();
    const int64_t size = static_cast<int64_t>(scores.size());
    auto rest = from;
    if (upper >= 0 && upper < size) {
        std::nth_element(from, from + upper, to, std::greater<T>());
        window.high = scores[upper];
        rest = from + upper;
    }
    if (lower < size) {
        std::nth_element(rest, from + lower, to, std::greater<T>());
        window.low = next_below(scores[lower]);
    }
}

// Returns a bound that is about `margin` ranks from a quantile, by the mean distance of the `ranks`
// scores that lie between the quantile and the bound as it is.
template <typename T>
T moved_bound(T bound, T quantile, int64_t ranks, int64_t margin) {
    if (!std::isfinite(bound)) return bound;
    const T moved = quantile + (bound - quantile) * (static_cast<T>(margin) / (ranks + 1));
    return std::isfinite(moved) ? moved : bound;
}

// Writes the bounds for the next step. `highest` and `lowest` are the quantiles found in the
// window, whose scores are passed in any order.
template <typename T>
void move_bounds(
    Window<T> window, T highest, T lowest, std::vector<T>& scores, int64_t margin, T* bounds
) {
    const int64_t over = window.first - window.above;
    const int64_t under = window.above + static_cast<int64_t>(scores.size()) - 1 - window.last;
    if (over + under > 8 * margin) {
        bound_by_ranks(window, scores, over - margin, window.last - window.above + margin);
    } else {
        window.high = moved_bound(window.high, highest, over, margin);
        window.low = std::min(moved_bound(window.low, lowest, under, margin), next_below(lowest));
    }
    bounds[0] = window.low;
    bounds[1] = window.high;
}

// Returns the reference scores, or about one in `stride` of them, at irregular distances, so that
// rows that come in a pattern are sampled fairly.
template <typename T>
std::vector<T> reference_scores(const Step<T>& s, const Class<T>& c, Size stride) {
    const Size total = s.rows + s.fill;
    const int32_t* next = c.hidden.begin;
    std::vector<T> scores;
    scores.reserve(total / stride + 1);
    uint32_t hash = 1;
    for (Size first = c.first; first < total; first += stride) {
        hash = hash * 1664525 + 1013904223;  // (Knuth 1997, section 3.3.4)
        const Size row = std::min<Size>(first + ((hash >> 16) * stride >> 16), total - 1);
        while (next != c.hidden.end && *next < row) ++next;
        if (next != c.hidden.end && *next == row) continue;
        const T score = row < s.rows ? c.live[row] : c.held[row - s.rows];
        if (score == score) scores.push_back(score);
    }
    return scores;
}

// Returns how many ranks a window should reach beyond those sought, so that it serves the next
// step. A batch enters and as many rows leave: each moves the rank of a score by a binomial number.
// The margin is three standard deviations of both, and 8.
template <typename T>
int64_t margin_of(const Step<T>& s, double level) {
    const double share = std::min(level, 0.5);
    return 8 + static_cast<int64_t>(3 * std::sqrt(2 * s.rows * share * (1 - share)));
}

// Returns the mean distance, in rows, of the scores that make up a sample.
template <typename T>
Size sample_stride(const Step<T>& s) {
    const double total = static_cast<double>(s.rows + s.fill);
    return std::max<Size>(static_cast<Size>(std::cbrt(total) / SAMPLE), 1);
}

// Bounds the windows that do not serve by ranks of a sample (Floyd and Rivest 1975), or with a
// stride of 1 by ranks of all scores. Returns whether there are any. Filled after a stride of 1,
// every window serves, unless there is nan among the scores.
template <typename T>
bool bound_anew(
    const Step<T>& s, const Class<T>& c, int64_t last, Windows<T>& windows, Size stride
) {
    constexpr T inf = std::numeric_limits<T>::infinity();
    std::vector<T> scores;
    for (int w = 0; w < windows.count; ++w) {
        Window<T>& window = windows.window[w];
        if (window.serves()) continue;
        if (scores.empty()) scores = reference_scores(s, c, stride);
        const double share = static_cast<double>(scores.size()) / static_cast<double>(last + 1);
        const double level = std::min(windows.bottom[w], 0.5);
        const double ranks = static_cast<double>(scores.size()) * level * (1 - level);
        const int64_t margin = stride == 1 ? margin_of(s, level) : 4 + 4 * std::sqrt(ranks);
        window.low = -inf;
        window.high = inf;
        bound_by_ranks(
            window, scores, static_cast<int64_t>(std::floor(window.first * share)) - margin,
            static_cast<int64_t>(std::ceil(window.last * share)) + margin
        );
    }
    return !scores.empty();
}

// Collects a class's scores around the ranks sought, of `last + 1` reference scores. Returns
// whether all windows serve: they do unless there is nan among the scores, which has no rank.
template <typename T>
bool find_scores(const Step<T>& s, const Class<T>& c, int64_t last, Windows<T>& windows) {
    const T* bounds = windows.bounds_of(s, c.index);
    for (int w = 0; w < windows.count; ++w) {
        Window<T>& window = windows.window[w];
        window.low = bounds[2 * w];
        window.high = bounds[2 * w + 1];
        window.seek(windows.top[w], windows.bottom[w], last);
        // More than any rank: the window does not serve until it is filled.
        window.above = last + 1;
    }
    const Size of_sample = sample_stride(s);
    bool some = !std::isnan(bounds[0]);  // windows to fill, by the last step's bounds
    // A loop, so that the passes over all scores are compiled once.
    for (Size stride : {Size{0}, of_sample, Size{1}}) {
        if (stride > 0) some = bound_anew(s, c, last, windows, stride);
        if (some) fill_windows(s, c, windows);
    }
    return std::all_of(windows.window, windows.window + windows.count, [](const Window<T>& window) {
        return window.serves();
    });
}

}  // namespace pauc

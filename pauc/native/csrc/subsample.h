// A random part of a large pool: the rows that pauc/core/subsample.py draws, for the same reasons.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "rows.h"

namespace pauc {

// How many rows each row stands for, 0 where it is not drawn.
template <typename T>
struct Sample {
    std::vector<T> column;  // [rows + fill], among negatives and, one-vs-rest, among positives
    std::vector<T> place;   // multi-label: among the positives of the class that is at hand
    std::vector<int64_t> size,
        kept;  // multi-label: positives of each class, and how many are drawn
};

// Whether only some rows enter the surrogate. Empty slots of the queue count as rows here.
template <typename T>
bool is_sampled(const Step<T>& s) {
    return s.max_pool > 0 && s.rows + s.size > s.max_pool;
}

// Returns a pseudo-random number for a place (the mixer of splitmix64), in the order of `_hash`.
// No two places have the same.
inline uint64_t hash_of(uint64_t place, uint64_t key) {
    uint64_t x = (place + 1) * 0x9E3779B97F4A7C15 + key * 2685821657736338717;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    x ^= x >> 31;
    return x ^ (uint64_t{1} << 63);  // numbers with a sign are compared there
}

// Returns how many rows of each stratum are kept: a quota, the rest in proportion.
inline std::vector<int64_t> allocate(const std::vector<int64_t>& sizes, int64_t places) {
    const int64_t quota = std::max<int64_t>(1, places / (2 * static_cast<int64_t>(sizes.size())));
    int64_t spare = places, further = 0;
    for (int64_t size : sizes) {
        spare -= std::min(size, quota);
        further += size - std::min(size, quota);
    }
    const double room = static_cast<double>(std::max<int64_t>(spare, 0));
    std::vector<int64_t> kept;
    for (int64_t size : sizes) {
        const int64_t base = std::min(size, quota), more = size - base;
        const double share = room * static_cast<double>(more) / std::max<double>(further, 1);
        kept.push_back(base + std::min(static_cast<int64_t>(std::floor(share)), more));
    }
    return kept;
}

// Writes the multiplicity of the `kept` rows of a stratum with the smallest numbers, those of the
// rows' places from `offset` on.
template <typename T>
PAUC_APART void draw(
    Span rows, int64_t kept, uint64_t offset, uint64_t key, std::vector<T>& multiplicity
) {
    struct Candidate {
        uint64_t hash;
        int32_t row;
        bool operator<(const Candidate& other) const { return hash < other.hash; }
    };
    if (kept == 0) return;
    const T each = static_cast<T>(rows.size()) / static_cast<T>(kept);
    // Numbers are uniform, so that nearly always the smallest are below this share of their range.
    double share = (kept + 4 * std::sqrt(kept) + 8) / static_cast<double>(rows.size());
    std::vector<Candidate> candidates(rows.size());
    Size count = 0;
    while (count < kept) {
        const uint64_t most = share < 1 ? static_cast<uint64_t>(share * 0x1p64) : ~uint64_t{0};
        count = 0;
        for (const int32_t* at = rows.begin; at != rows.end; ++at) {
            const uint64_t hash = hash_of(offset + *at, key);
            candidates[count] = {hash, *at};  // kept if it is small: a branch is not predictable
            count += hash <= most;
        }
        share = 1;
    }
    const auto begin = candidates.begin();
    std::nth_element(begin, begin + (kept - 1), begin + count);
    for (int64_t k = 0; k < kept; ++k) multiplicity[candidates[k].row] = each;
}

// Adds the rows from 0 to `end` that are in neither list.
inline void append_rest(Span some, const RowList& others, Size end, RowList& into) {
    std::vector<uint8_t> taken(end);
    for (const int32_t* at = some.begin; at != some.end; ++at) taken[*at] = 1;
    for (int32_t row : others) taken[row] = 1;
    Size count = static_cast<Size>(into.size());
    into.resize(count + end);
    for (Size row = 0; row < end; ++row) {
        into[count] = static_cast<int32_t>(row);  // kept if it is not taken: no branch
        count += !taken[row];
    }
    into.resize(count);
}

// One-vs-rest, the strata are the classes; what is of no class counts as the last. One class has
// the negatives for the second.
template <typename T>
void draw_by_class(const Step<T>& s, const Rows<T>& rows, Sample<T>& sample) {
    std::vector<RowList> strata(std::max<Size>(s.classes, 2));
    const int32_t* own = rows.own.data();
    for (Size c = 0; c < s.classes; ++c)
        strata[c].assign(own + rows.start[c], own + rows.start[c + 1]);
    append_rest({own, own + rows.start[s.classes]}, rows.absent, s.rows + s.fill, strata.back());
    std::vector<int64_t> sizes;
    for (const RowList& stratum : strata) sizes.push_back(static_cast<int64_t>(stratum.size()));
    const std::vector<int64_t> kept = allocate(sizes, s.max_pool);
    for (size_t c = 0; c < strata.size(); ++c)
        draw(span_of(strata[c]), kept[c], 0, s.key, sample.column);
}

// Multi-label, a row is in many strata: columns are drawn for the negatives, and independently
// places for the positives.
template <typename T>
void draw_columns(const Step<T>& s, Sample<T>& sample) {
    RowList present;
    sample.size.resize(s.classes);
    for (Size row = 0; row < s.rows + s.fill; ++row) {
        bool some = false;
        for (Size c = 0; c < s.classes; ++c) {
            const int label =
                row < s.rows ? s.label(row, c) : s.held_labels[c * s.size + row - s.rows];
            some |= label >= 0;
            sample.size[c] += label == 1;
        }
        if (some) present.push_back(static_cast<int32_t>(row));
    }
    const int64_t kept = allocate({static_cast<int64_t>(present.size())}, s.max_pool)[0];
    draw(span_of(present), kept, 0, 2 * s.key, sample.column);
    sample.kept = allocate(sample.size, s.max_pool);
    sample.place.resize(sample.column.size());
}

template <typename T>
PAUC_APART Sample<T> draw_sample(const Step<T>& s, const Rows<T>& rows) {
    Sample<T> sample;
    if (!is_sampled(s)) return sample;
    sample.column.resize(s.rows + s.fill);
    if (s.multilabel) {
        draw_columns(s, sample);
    } else {
        draw_by_class(s, rows, sample);
    }
    return sample;
}

// Returns how many rows each positive of a class stands for.
template <typename T>
const std::vector<T>& multiplicity_of_positives(
    const Step<T>& s, const Class<T>& c, Sample<T>& sample
) {
    if (!s.multilabel) return sample.column;
    std::fill(sample.place.begin(), sample.place.end(), T(0));
    const uint64_t offset = static_cast<uint64_t>(c.index) * (s.rows + s.size);
    draw(c.own, sample.kept[c.index], offset, 2 * s.key + 1, sample.place);
    return sample.place;
}

}  // namespace pauc

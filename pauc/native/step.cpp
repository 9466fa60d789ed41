// One step of the partial AUC on a CPU: band, losses and gradient of all classes in one call.
//
// The numbers are those of `pauc.pauc_loss_terms`, which is the readable account of them, and which
// takes some hundred operators of torch of some microseconds each. Called by pauc/fused.py with the
// addresses of contiguous tensors, whose sizes, devices and dtypes it vouches for.

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <new>
#include <vector>

#include "band.h"
#include "pairs.h"
#include "rows.h"
#include "surrogates.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define PAUC_AVX2 1
#endif

namespace pauc {
namespace {

// Beyond, the series of pauc/blocks.py are faster.
constexpr double MOST_PAIRS = 1 << 25;

template <typename T>
double ratio(double total, double live, const Step<T>& s) {
    return s.live_gradient && live > 0 ? total / live : 1;
}

// Writes a class's loss and gradient, of sums whose terms are means over `number` negatives.
template <typename T>
void write_class(
    const Step<T>& s,
    int32_t c,
    const Band<T>& band,
    const Positives<T>& positives,
    const Negatives<T>& negatives,
    const Sums<T>& sums,
    double number
) {
    const double scale = 1 / (positives.total * number);
    s.losses[c] = static_cast<T>(1 - sums.value * scale);
    s.valid[c] = true;
    const double steep = -scale / band.tau;
    const double of_positive = steep * ratio(positives.total, positives.live_total, s);
    for (size_t i = 0; i < positives.live; ++i)
        s.gradient[positives.row.begin[i] * s.classes + c] =
            static_cast<T>(of_positive * positives.weight[i] * sums.positive[i]);
    const double live = static_cast<double>(negatives.row.size());
    const double of_negative = -steep * ratio(number, live, s);
    for (size_t j = 0; j < negatives.row.size(); ++j)
        s.gradient[negatives.row[j] * s.classes + c] =
            static_cast<T>(of_negative * sums.negative[j]);
}

// What one class leaves to the next.
template <typename T>
struct Memory {
    Windows<T> windows;           // for their room
    std::vector<int32_t> hidden;  // likewise
    double pairs = 0;             // that have been looked at
};

// False where there are scores without an order, or too many pairs.
template <typename T>
inline bool take_class(const Step<T>& s, const Rows<T>& rows, int32_t index, Memory<T>& memory) {
    const Class<T> c = make_class(s, rows, index, memory.hidden);
    s.losses[index] = 0;
    s.valid[index] = s.degenerate[index] = false;
    s.ref_count[index] = s.rows + s.fill - (c.hidden.end - c.hidden.begin);
    if (s.ref_count[index] == 0) return true;
    const int64_t last = s.ref_count[index] - 1;
    if (!find_scores(s, c, last, memory.windows)) return false;
    const Band<T> band = make_band(s, take_quantiles(s, c, last, memory.windows));
    s.degenerate[index] = band.degenerate;
    const Positives<T> positives = gather_positives(s, c);
    if (!band.defined || !(positives.total > 0)) return true;
    if (s.surrogate == TRAPEZOID) {
        write_class(s, index, band, positives, {}, trapezoid_sums(positives, band), 1);
        return true;
    }
    const Negatives<T> negatives = gather_negatives(s, c, band, memory.windows.window[0]);
    if (negatives.score.empty()) return true;
    PairSums<T> links(negatives, band, s.surrogate == LOGISTIC);
    memory.pairs += links.cost(positives.live, positives.score.size() - positives.live);
    if (memory.pairs > MOST_PAIRS) return false;
    const Sums<T> sums = pair_sums(positives, links);
    write_class(s, index, band, positives, negatives, sums, negatives.score.size());
    return true;
}

// False where the values are for other code to sort out; then nothing written is of use but bounds.
template <typename T>
inline bool take_step(const Step<T>& s) {
    if (!is_regular(s)) return false;
    if (s.entropy) write_entropy(s);
    const Rows<T> rows = sort_rows(s);
    Memory<T> memory{Windows<T>(s), {}};
    for (int32_t index = 0; index < s.classes; ++index)
        if (!take_class(s, rows, index, memory)) return false;
    return true;
}

#ifdef PAUC_AVX2
// The same once more for processors that work on eight numbers at a time.
template <typename T>
__attribute__((target("avx2,fma"), flatten)) bool take_wide_step(const Step<T>& s) {
    return take_step(s);
}
#endif

template <typename T>
bool dispatch(const Step<T>& s) {
#ifdef PAUC_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return take_wide_step(s);
#endif
    return take_step(s);
}

using Address = unsigned long long;

template <typename T>
void point(T*& pointer, Address address) {
    pointer = reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

// The arguments are those of pauc/_native.pyi.
template <typename T>
bool parse(PyObject* arguments, Step<T>& s, std::vector<double>& levels) {
    int wide;
    PyObject* list;
    Address logits, targets, iid, weight, held_scores, held_targets, held_iid, held_weight;
    Address bounds, losses, valid, degenerate, ref_count, gradient;
    Address entropy, residual;
    if (!PyArg_ParseTuple(
            arguments, "p(nnnn)(iiippd)O(KKKK)(KKKK)K(KKKKKKK):step", &wide,                //
            &s.rows, &s.classes, &s.size, &s.fill,                                          //
            &s.surrogate, &s.scale, &s.interpolation, &s.pool_numerator, &s.live_gradient,  //
            &s.temperature, &list,                                                          //
            &logits, &targets, &iid, &weight,                                               //
            &held_scores, &held_targets, &held_iid, &held_weight, &bounds,                  //
            &losses, &valid, &degenerate, &ref_count, &gradient, &entropy, &residual
        ))
        return false;
    for (Py_ssize_t k = 0; k < PyList_Size(list); ++k)
        levels.push_back(PyFloat_AsDouble(PyList_GetItem(list, k)));
    s.levels = levels.data();
    s.num_knots = static_cast<Size>(levels.size());
    point(s.logits, logits);
    point(s.targets, targets);
    point(s.iid, iid);
    point(s.weight, weight);
    point(s.held_scores, held_scores);
    point(s.held_targets, held_targets);
    point(s.held_iid, held_iid);
    point(s.held_weight, held_weight);
    point(s.bounds, bounds);
    point(s.losses, losses);
    point(s.valid, valid);
    point(s.degenerate, degenerate);
    point(s.ref_count, ref_count);
    point(s.gradient, gradient);
    point(s.entropy, entropy);
    point(s.residual, residual);
    return !PyErr_Occurred();
}

template <typename T>
PyObject* parse_and_run(PyObject* arguments) {
    Step<T> s;
    std::vector<double> levels;
    if (!parse(arguments, s, levels)) return nullptr;
    bool done = false, out_of_memory = false;
    Py_BEGIN_ALLOW_THREADS;
    try {
        done = dispatch(s);
    } catch (const std::bad_alloc&) {
        out_of_memory = true;
    }
    Py_END_ALLOW_THREADS;
    return out_of_memory ? PyErr_NoMemory() : PyBool_FromLong(done);
}

PyObject* step(PyObject*, PyObject* arguments) {
    PyObject* wide = PyTuple_GetItem(arguments, 0);
    if (!wide) return nullptr;
    return PyObject_IsTrue(wide) ? parse_and_run<double>(arguments)
                                 : parse_and_run<float>(arguments);
}

PyMethodDef methods[] = {
    {"step", step, METH_VARARGS, "See pauc/fused.py."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_native", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr
};

}  // namespace
}  // namespace pauc

PyMODINIT_FUNC PyInit__native(void) {
    return PyModule_Create(&pauc::module);
}

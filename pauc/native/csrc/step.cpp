// One step of the partial AUC on a CPU: band, losses and gradient of all classes in one call, and
// the rows that enter the queue in another.
//
// The numbers are those of pauc/core/partial_auc.py, which is the readable account of them; it
// takes some hundred operators of torch, of some microseconds each. Called by pauc/native/step.py
// and entry.py with the addresses of contiguous CPU tensors. They vouch for sizes and dtypes;
// values are not trusted.

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <algorithm>
#include <new>
#include <optional>
#include <vector>

#include "batch.h"
#include "enter.h"
#include "log_loss.h"
#include "order.h"
#include "round.h"
#include "step.h"
#include "sweep.h"
#include "wide.h"

namespace pauc {
namespace {

#ifdef PAUC_AVX2
// The step compiled once more for processors with AVX2. `flatten` inlines all of it into this
// function, since the target holds for the code that stands in a function, not for what it calls.
template <typename T>
__attribute__((target("avx2,fma"), flatten)) std::optional<double> take_wide_step(
    const Step<T>& s, bool validate
) {
    return take_step(s, validate);
}
#endif

template <typename T>
std::optional<double> dispatch(const Step<T>& s, bool validate) {
#ifdef PAUC_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return take_wide_step(s, validate);
#endif
    return take_step(s, validate);
}

using Address = unsigned long long;  // as `K` of PyArg_ParseTuple

template <typename T>
void point(T*& pointer, Address address) {
    pointer = reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

// The addresses of a batch and of a queue; 0 for a tensor that is not given.
struct Addresses {
    Address logits, targets, iid, weight;
    Address held_scores, held_targets, held_iid, held_weight, cursor, fill, step;
};

template <typename T, template <typename> class Kind>
void point_at_rows(Kind<T>& k, const Addresses& at, long long ignore_index) {
    k.ignore_index = ignore_index;
    point(k.logits, at.logits);
    point(k.targets, at.targets);
    point(k.iid, at.iid);
    point(k.weight, at.weight);
    point(k.held_scores, at.held_scores);
    point(k.held_targets, k.multilabel ? 0 : at.held_targets);
    point(k.held_labels, k.multilabel ? at.held_targets : 0);
    point(k.held_iid, at.held_iid);
    point(k.held_weight, at.held_weight);
}

// What a step reads of a queue's counters.
struct Counters {
    const int64_t *cursor, *fill, *step;

    // Whether they can be those of a queue, as `check_counters` of pauc/core/queue.py says. The
    // fill is read by the caller, once: another thread might write to a queue that it shares.
    bool are_sound(Size filled, Size size) const {
        if (*step < 0 || filled < 0 || filled > size) return false;
        if (filled < size) return *cursor == filled;
        return 0 <= *cursor && *cursor < std::max<Size>(size, 1);
    }
};

// The arguments are described in pauc/native/_ext.pyi. Returns false with a Python error set.
template <typename T>
bool parse_step(
    PyObject* arguments, Step<T>& s, std::vector<double>& levels, bool& validate, Counters& counters
) {
    int wide, checks;
    long long ignore_index;
    PyObject* list;
    Addresses at;
    Address bounds, loss, per_class, valid, degenerate, ref_count, gradient, whole;
    Address measured, counted;
    if (!PyArg_ParseTuple(
            arguments, "pp(nnnp)L(iiippipppnddd)O(KKKKKKKKKKKKKKKKKKKKK):step", &wide,
            &checks,                                                                        //
            &s.rows, &s.classes, &s.size, &s.multilabel, &ignore_index,                     //
            &s.surrogate, &s.scale, &s.interpolation, &s.pool_numerator, &s.live_gradient,  //
            &s.reduction, &s.explained, &s.population, &s.moving_knots, &s.max_pool, &s.temperature,
            &s.pauc_weight, &s.bce_weight, &list,                              //
            &at.logits, &at.targets, &at.iid, &at.weight,                      //
            &at.held_scores, &at.held_targets, &at.held_iid, &at.held_weight,  //
            &at.cursor, &at.fill, &at.step, &bounds,                           //
            &loss, &per_class, &valid, &degenerate, &ref_count, &gradient, &whole, &measured,
            &counted
        ))
        return false;
    for (Py_ssize_t k = 0; k < PyList_Size(list); ++k)
        levels.push_back(PyFloat_AsDouble(PyList_GetItem(list, k)));
    validate = checks != 0;
    s.levels = levels.data();
    s.num_knots = static_cast<Size>(levels.size());
    point_at_rows(s, at, ignore_index);
    point(counters.cursor, at.cursor);
    point(counters.fill, at.fill);
    point(counters.step, at.step);
    point(s.bounds, bounds);
    point(s.loss, loss);
    point(s.per_class, per_class);
    point(s.valid, valid);
    point(s.degenerate, degenerate);
    point(s.ref_count, ref_count);
    point(s.gradient, gradient);
    point(s.whole, whole);
    point(s.measured, measured);
    point(s.counted, counted);
    return !PyErr_Occurred();
}

template <typename T>
bool parse_entry(PyObject* arguments, Entry<T>& e) {
    int wide;
    long long ignore_index;
    Addresses at;
    if (!PyArg_ParseTuple(
            arguments, "p(nnnp)L(KKKKKKKKKKK):enter", &wide,                   //
            &e.rows, &e.classes, &e.size, &e.multilabel, &ignore_index,        //
            &at.logits, &at.targets, &at.iid, &at.weight,                      //
            &at.held_scores, &at.held_targets, &at.held_iid, &at.held_weight,  //
            &at.cursor, &at.fill, &at.step
        ))
        return false;
    point_at_rows(e, at, ignore_index);
    point(e.cursor, at.cursor);
    point(e.fill, at.fill);
    point(e.step, at.step);
    return true;
}

// Calls `work` without the GIL. Returns false with a Python error set if memory ran out.
template <typename Work>
bool call(const Work& work) {
    bool enough_memory = true;
    Py_BEGIN_ALLOW_THREADS;
    try {
        work();
    } catch (const std::bad_alloc&) {
        enough_memory = false;
    }
    Py_END_ALLOW_THREADS;
    if (!enough_memory) PyErr_NoMemory();
    return enough_memory;
}

template <typename T>
PyObject* step(PyObject* arguments) {
    Step<T> s;
    std::vector<double> levels;
    bool validate;
    Counters counters;
    if (!parse_step(arguments, s, levels, validate, counters)) return nullptr;
    std::optional<double> weight;
    const auto work = [&] {
        // Read here and checked, since a fill out of range would have the step read outside the
        // queue.
        s.fill = *counters.fill;
        s.key = static_cast<uint64_t>(*counters.step);
        if (counters.are_sound(s.fill, s.size)) weight = dispatch(s, validate);
    };
    if (!call(work)) return nullptr;
    if (weight) return PyFloat_FromDouble(*weight);
    Py_RETURN_NONE;
}

template <typename T>
PyObject* enter(PyObject* arguments) {
    Entry<T> e;
    if (!parse_entry(arguments, e) || !call([&] { enter(e); })) return nullptr;
    Py_RETURN_NONE;
}

template <PyObject* single(PyObject*), PyObject* wide(PyObject*)>
PyObject* by_dtype(PyObject*, PyObject* arguments) {
    PyObject* is_wide = PyTuple_GetItem(arguments, 0);
    if (!is_wide) return nullptr;
    return PyObject_IsTrue(is_wide) ? wide(arguments) : single(arguments);
}

PyObject* sweep_pairs(PyObject*, PyObject* arguments) {
    Ranked positives, negatives;
    Py_ssize_t count, positive_rows, negative_rows;
    unsigned long long terms, x, w, of_positives, y, v, of_negatives;
    if (!PyArg_ParseTuple(
            arguments, "(nK)(nKKK)(nKKK):sweep_pairs", &count, &terms, &positive_rows, &x, &w,
            &of_positives, &negative_rows, &y, &v, &of_negatives
        ))
        return nullptr;
    const Term* term;
    point(term, terms);
    positives.count = static_cast<size_t>(positive_rows);
    point(positives.score, x);
    point(positives.weight, w);
    point(positives.sums, of_positives);
    negatives.count = static_cast<size_t>(negative_rows);
    point(negatives.score, y);
    point(negatives.weight, v);
    point(negatives.sums, of_negatives);
    const auto work = [&] { sweep_both(positives, negatives, term, static_cast<size_t>(count)); };
    if (!call(work)) return nullptr;
    Py_RETURN_NONE;
}

PyObject* log_loss(PyObject*, PyObject* arguments) {
    LogLoss l;
    Py_ssize_t rows;
    Address score, weight, gradient, hessian;
    if (!PyArg_ParseTuple(
            arguments, "nKK(ddd)KK:log_loss", &rows, &score, &weight, &l.factor, &l.largest_step,
            &l.least_curvature, &gradient, &hessian
        ))
        return nullptr;
    l.rows = static_cast<size_t>(rows);
    point(l.score, score);
    point(l.weight, weight);
    point(l.gradient, gradient);
    point(l.hessian, hessian);
    if (!call([&] { dispatch_log_loss(l); })) return nullptr;
    Py_RETURN_NONE;
}

PyObject* band_round(PyObject*, PyObject* arguments) {
    Round r;
    Py_ssize_t rows, positives;
    Address score, weight, positive, terms, gradient, hessian;
    if (!PyArg_ParseTuple(
            arguments, "nKKnK(ddi)(dddd)KKK:band_round", &rows, &score, &weight, &positives,
            &positive, &r.alpha, &r.beta, &r.interpolation, &r.bce_weight, &r.pauc_weight,
            &r.largest_step, &r.least_curvature, &terms, &gradient, &hessian
        ))
        return nullptr;
    r.rows = static_cast<size_t>(rows);
    r.positives = static_cast<size_t>(positives);
    point(r.score, score);
    point(r.weight, weight);
    point(r.positive, positive);
    point(r.terms, terms);
    point(r.gradient, gradient);
    point(r.hessian, hessian);
    bool done = false;
    if (!call([&] { done = take_round(r); })) return nullptr;
    return PyBool_FromLong(done);
}

// A column of all rows, and room for as many row numbers.
template <typename T>
struct RowSearch {
    size_t rows;
    const T* column;
    int64_t* found;

    bool parse(PyObject* arguments, const char* format) {
        Py_ssize_t given;
        Address at_column, at_found;
        if (!PyArg_ParseTuple(arguments, format, &given, &at_column, &at_found)) return false;
        rows = static_cast<size_t>(given);
        point(column, at_column);
        point(found, at_found);
        return true;
    }
};

PyObject* marked_rows(PyObject*, PyObject* arguments) {
    RowSearch<bool> s;
    size_t count = 0;
    if (!s.parse(arguments, "nKK:marked_rows") ||
        !call([&] { count = find_marked(s.column, s.rows, s.found); }))
        return nullptr;
    return PyLong_FromSize_t(count);
}

PyObject* ascending_order(PyObject*, PyObject* arguments) {
    RowSearch<double> s;
    if (!s.parse(arguments, "nKK:ascending_order") ||
        !call([&] { order_rows(s.column, s.rows, s.found); }))
        return nullptr;
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"step", by_dtype<step<float>, step<double>>, METH_VARARGS, "See pauc/native/step.py."},
    {"enter", by_dtype<enter<float>, enter<double>>, METH_VARARGS, "See pauc/native/entry.py."},
    {"sweep_pairs", sweep_pairs, METH_VARARGS, "See pauc/native/sweep.py."},
    {"log_loss", log_loss, METH_VARARGS, "See pauc/native/boosting.py."},
    {"band_round", band_round, METH_VARARGS, "See pauc/native/boosting.py."},
    {"marked_rows", marked_rows, METH_VARARGS, "See pauc/native/boosting.py."},
    {"ascending_order", ascending_order, METH_VARARGS, "See pauc/native/order.py."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_ext", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr
};

}  // namespace
}  // namespace pauc

PyMODINIT_FUNC PyInit__ext(void) {
    return PyModule_Create(&pauc::module);
}

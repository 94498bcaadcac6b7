// The Python module: the short path to the public functions (past torch.ops' argument parsing). Arguments come as
// Python objects; each converter raises, in one sentence, what was expected and what came.
#include <pybind11/pybind11.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "../gumbel_ext.h"

namespace py = pybind11;

namespace {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalGenerator = std::optional<at::Generator>;

[[noreturn]] void wrong_type(const char* name, const char* expected, py::handle value) {
  throw py::type_error(std::string(name) + ": expected " + expected + ", got " + Py_TYPE(value.ptr())->tp_name);
}

bool is_tensor(py::handle value) {
  return THPVariable_Check(value.ptr());
}

const at::Tensor& to_tensor(const char* name, py::handle value) {
  if (!is_tensor(value)) wrong_type(name, "a torch.Tensor", value);
  return THPVariable_Unpack(value.ptr());
}

gumbel_ext::Temperature to_temperature(const char* name, py::handle value) {
  if (is_tensor(value)) return THPVariable_Unpack(value.ptr());
  const PyNumberMethods* methods = Py_TYPE(value.ptr())->tp_as_number;
  if (methods == nullptr || (methods->nb_float == nullptr && methods->nb_index == nullptr))
    wrong_type(name, "a number or a tensor", value);
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1 && PyErr_Occurred()) {
    const bool is_too_large = PyLong_CheckExact(value.ptr()) && PyErr_ExceptionMatches(PyExc_OverflowError);
    if (!is_too_large) throw py::error_already_set();  // what the user's own __float__ raised
    PyErr_Clear();
    throw py::value_error(std::string(name) + ": expected a finite number, got an int beyond the range of float64");
  }
  return number;
}

// Numbers beyond 64 bits become the nearest of 64, which the checks of ranges then refuse.
std::int64_t to_int(const char* name, py::handle value) {
  if (!PyIndex_Check(value.ptr())) wrong_type(name, "an int", value);
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!number) throw py::error_already_set();
  int overflow = 0;
  const long long result = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  using Limits = std::numeric_limits<std::int64_t>;
  return overflow > 0 ? Limits::max() : overflow < 0 ? Limits::min() : result;
}

std::optional<std::int64_t> to_optional_int(const char* name, py::handle value) {
  if (value.is_none()) return {};
  if (!PyIndex_Check(value.ptr())) wrong_type(name, "an int or None", value);
  return to_int(name, value);
}

// True and False, NumPy's too, and 1 and 0.
bool to_bool(const char* name, py::handle value) {
  if (PyBool_Check(value.ptr())) return value.ptr() == Py_True;
  const bool is_numpys = std::strncmp(Py_TYPE(value.ptr())->tp_name, "numpy.bool", 10) == 0;
  if (is_numpys) return PyObject_IsTrue(value.ptr()) == 1;
  const std::int64_t number = PyIndex_Check(value.ptr()) ? to_int(name, value) : -1;
  if (number != 0 && number != 1) wrong_type(name, "a bool", value);
  return number == 1;
}

OptionalTensor to_mask(py::handle value) {
  if (value.is_none()) return {};
  if (!is_tensor(value)) wrong_type("mask", "a bool tensor or None", value);
  return THPVariable_Unpack(value.ptr());
}

OptionalGenerator to_generator(py::handle value) {
  if (value.is_none()) return {};
  if (!THPGenerator_Check(value.ptr())) wrong_type("generator", "a torch.Generator or None", value);
  return THPGenerator_Unwrap(value.ptr());
}

// None, a tensor, or an int of 64 bits (which functional.py has made of it).
gumbel_ext::Seed to_seed(py::handle value) {
  if (value.is_none()) return {};
  if (is_tensor(value)) return THPVariable_Unpack(value.ptr());
  return value.cast<std::int64_t>();
}

std::vector<std::int64_t> to_size(py::handle value) {
  if (PyIndex_Check(value.ptr())) return {to_int("size", value)};
  if (!PySequence_Check(value.ptr()) || PyUnicode_Check(value.ptr())) wrong_type("size", "an int or several", value);
  std::vector<std::int64_t> size;
  for (const py::handle number : py::reinterpret_borrow<py::sequence>(value)) size.push_back(to_int("size", number));
  return size;
}

at::ScalarType to_dtype(py::handle value) {
  if (!THPDtype_Check(value.ptr())) wrong_type("dtype", "a torch.dtype", value);
  return reinterpret_cast<THPDtype*>(value.ptr())->scalar_type;
}

at::Device to_device(py::handle value) {
  if (THPDevice_Check(value.ptr())) return reinterpret_cast<THPDevice*>(value.ptr())->device;
  if (!PyUnicode_Check(value.ptr())) wrong_type("device", "a torch.device or its name", value);
  return at::Device(value.cast<std::string>());
}

// softmax or straight_through.
template <auto kFunction>
at::Tensor without_noise(py::handle logits, py::handle tau, py::handle dim, py::handle mask) {
  const at::Tensor x = to_tensor("logits", logits);
  const auto temperature = to_temperature("tau", tau);
  const auto at_dim = to_int("dim", dim);
  const auto allowed = to_mask(mask);
  const py::gil_scoped_release release;
  return kFunction(x, temperature, at_dim, allowed);
}

at::Tensor gumbel_softmax(py::handle logits, py::handle tau, py::handle hard, py::handle dim, py::handle mask,
                          py::handle seed, py::handle generator) {
  const at::Tensor x = to_tensor("logits", logits);
  const auto temperature = to_temperature("tau", tau);
  const bool one_hot = to_bool("hard", hard);
  const auto at_dim = to_int("dim", dim);
  const auto allowed = to_mask(mask);
  const auto noise_seed = to_seed(seed);
  const auto source = to_generator(generator);
  const py::gil_scoped_release release;
  return gumbel_ext::gumbel_softmax(x, temperature, one_hot, at_dim, allowed, noise_seed, source);
}

// gumbel_max or sample.
template <typename Function>
auto with_draws(const Function& function, py::handle logits, py::handle temperature, py::handle dim,
                py::handle num_samples, py::handle mask, py::handle seed, py::handle generator) {
  const at::Tensor x = to_tensor("logits", logits);
  const auto divisor = to_temperature("temperature", temperature);
  const auto at_dim = to_int("dim", dim);
  const auto draws = to_optional_int("num_samples", num_samples);
  const auto allowed = to_mask(mask);
  const auto noise_seed = to_seed(seed);
  const auto source = to_generator(generator);
  const py::gil_scoped_release release;
  return function(x, divisor, at_dim, draws, allowed, noise_seed, source);
}

at::Tensor gumbel_max(py::handle logits, py::handle temperature, py::handle dim, py::handle num_samples,
                      py::handle mask, py::handle seed, py::handle generator) {
  return with_draws(gumbel_ext::gumbel_max, logits, temperature, dim, num_samples, mask, seed, generator);
}

py::tuple sample(py::handle logits, py::handle temperature, py::handle dim, py::handle num_samples, py::handle mask,
                 py::handle seed, py::handle generator) {
  const gumbel_ext::Sample drawn =
      with_draws(gumbel_ext::sample, logits, temperature, dim, num_samples, mask, seed, generator);
  return py::make_tuple(drawn.index, drawn.log_prob, drawn.entropy);
}

at::Tensor gumbel_noise(py::handle size, py::handle seed, py::handle generator, py::handle dtype, py::handle device) {
  const auto shape = to_size(size);
  const auto noise_seed = to_seed(seed);
  const auto source = to_generator(generator);
  const auto type = to_dtype(dtype);
  const auto place = to_device(device);
  const py::gil_scoped_release release;
  return gumbel_ext::gumbel_noise(shape, noise_seed, source, type, place);
}

at::Tensor relaxed_top_k(py::handle logits, py::handle k, py::handle tau, py::handle hard, py::handle dim,
                         py::handle mask, py::handle seed, py::handle generator) {
  const at::Tensor x = to_tensor("logits", logits);
  const auto count = to_int("k", k);
  const auto temperature = to_temperature("tau", tau);
  const bool k_hot = to_bool("hard", hard);
  const auto at_dim = to_int("dim", dim);
  const auto allowed = to_mask(mask);
  const auto noise_seed = to_seed(seed);
  const auto source = to_generator(generator);
  const py::gil_scoped_release release;
  return gumbel_ext::relaxed_top_k(x, count, temperature, k_hot, at_dim, allowed, noise_seed, source);
}

std::string to_estimator(py::handle value) {
  if (!PyUnicode_Check(value.ptr())) wrong_type("estimator", "a str", value);
  return value.cast<std::string>();
}

// function(logits, tau, estimator, temperature, dim, mask, seed, generator, num_noises), or with a weight after logits.
template <typename Function, typename... Weight>
auto with_estimator(const Function& function, py::handle logits, py::handle tau, py::handle estimator,
                    py::handle temperature, py::handle dim, py::handle mask, py::handle seed, py::handle generator,
                    py::handle num_noises, const Weight&... weight) {
  const at::Tensor x = to_tensor("logits", logits);
  const auto softness = to_temperature("tau", tau);
  const auto name = to_estimator(estimator);
  const auto divisor = to_temperature("temperature", temperature);
  const auto at_dim = to_int("dim", dim);
  const auto allowed = to_mask(mask);
  const auto noise_seed = to_seed(seed);
  const auto source = to_generator(generator);
  const auto noises = to_int("num_noises", num_noises);
  const py::gil_scoped_release release;
  return function(x, weight..., softness, name, divisor, at_dim, allowed, noise_seed, source, noises);
}

at::Tensor one_hot_sample(py::handle logits, py::handle tau, py::handle estimator, py::handle temperature,
                          py::handle dim, py::handle mask, py::handle seed, py::handle generator,
                          py::handle num_noises) {
  return with_estimator(gumbel_ext::one_hot_sample, logits, tau, estimator, temperature, dim, mask, seed, generator,
                        num_noises);
}

py::tuple straight_through_embedding(py::handle logits, py::handle weight, py::handle tau, py::handle estimator,
                                     py::handle temperature, py::handle dim, py::handle mask, py::handle seed,
                                     py::handle generator, py::handle num_noises) {
  const gumbel_ext::Embedded result =
      with_estimator(gumbel_ext::straight_through_embedding, logits, tau, estimator, temperature, dim, mask, seed,
                     generator, num_noises, to_tensor("weight", weight));
  return py::make_tuple(result.value, result.index);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  // Errors and warnings become Python's as in torch's own functions, and Python's exceptions pass through unchanged.
  m.def("softmax", torch::wrap_pybind_function(without_noise<gumbel_ext::softmax>));
  m.def("straight_through", torch::wrap_pybind_function(without_noise<gumbel_ext::straight_through>));
  m.def("gumbel_softmax", torch::wrap_pybind_function(gumbel_softmax));
  m.def("gumbel_max", torch::wrap_pybind_function(gumbel_max));
  m.def("sample", torch::wrap_pybind_function(sample));
  m.def("one_hot_sample", torch::wrap_pybind_function(one_hot_sample));
  m.def("straight_through_embedding", torch::wrap_pybind_function(straight_through_embedding));
  m.def("relaxed_top_k", torch::wrap_pybind_function(relaxed_top_k));
  m.def("gumbel_noise", torch::wrap_pybind_function(gumbel_noise));
}

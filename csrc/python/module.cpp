// The Python module: the short path to the public functions (past torch.ops' argument parsing).
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "../gumbel_ext.h"

namespace py = pybind11;

namespace {

// A number or a tensor, as Python passes it.
gumbel_ext::Temperature to_temperature(const char* name, const py::handle& value) {
  if (THPVariable_Check(value.ptr())) return THPVariable_Unpack(value.ptr());
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + ": expected a number or a tensor, got " + Py_TYPE(value.ptr())->tp_name);
  }
  return number;
}

gumbel_ext::Seed to_seed(const py::handle& value) {
  if (value.is_none()) return {};
  if (THPVariable_Check(value.ptr())) return THPVariable_Unpack(value.ptr());
  return value.cast<std::int64_t>();
}

using OptionalTensor = std::optional<at::Tensor>;
using OptionalGenerator = std::optional<at::Generator>;

}  // namespace

PYBIND11_MODULE(_C, m) {
  // The library's errors as the Python exceptions that torch makes of them.
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const c10::Error&) {
      torch::translate_exception_to_python(error);
    }
  });

  m.def("softmax", [](const at::Tensor& logits, const py::handle& tau, std::int64_t dim, const OptionalTensor& mask) {
    const auto temperature = to_temperature("tau", tau);
    const py::gil_scoped_release release;
    return gumbel_ext::softmax(logits, temperature, dim, mask);
  });
  m.def("straight_through",
        [](const at::Tensor& logits, const py::handle& tau, std::int64_t dim, const OptionalTensor& mask) {
          const auto temperature = to_temperature("tau", tau);
          const py::gil_scoped_release release;
          return gumbel_ext::straight_through(logits, temperature, dim, mask);
        });
  m.def("gumbel_softmax", [](const at::Tensor& logits, const py::handle& tau, bool hard, std::int64_t dim,
                             const OptionalTensor& mask, const py::handle& seed, const OptionalGenerator& generator) {
    const auto temperature = to_temperature("tau", tau);
    const auto source = to_seed(seed);
    const py::gil_scoped_release release;
    return gumbel_ext::gumbel_softmax(logits, temperature, hard, dim, mask, source, generator);
  });
  m.def("gumbel_max", [](const at::Tensor& logits, const py::handle& temperature, std::int64_t dim,
                         std::optional<std::int64_t> num_samples, const OptionalTensor& mask, const py::handle& seed,
                         const OptionalGenerator& generator) {
    const auto divisor = to_temperature("temperature", temperature);
    const auto source = to_seed(seed);
    const py::gil_scoped_release release;
    return gumbel_ext::gumbel_max(logits, divisor, dim, num_samples, mask, source, generator);
  });
}

/// \file
/// gumbel_ext: sampling from categorical variables, differentiably.
///
/// A categorical variable is given by logits x (unnormalised log-probabilities, x = log pi) along one
/// dimension, `dim`. With p = softmax((x + g) / tau) and z = one_hot(argmax(x + g)):
///
///                  relaxed: p               one-hot, straight-through: z - sg(p) + p
///   g = 0          softmax                  straight_through
///   g ~ Gumbel     gumbel_softmax           gumbel_softmax(hard = true)       index z: gumbel_max, sample
///
/// where sg stops the gradient: every differentiable function of this table has softmax's gradient,
/// dx = p * (dy - <p, dy>) / tau. Of k classes at once: relaxed_top_k.
///
/// Common to all functions:
///   logits   float32, float64, float16 or bfloat16; any strides. Results have its shape and dtype
///            unless said otherwise, and are contiguous; arithmetic is in float32 (float64 for float64).
///   tau      a positive finite number, or a tensor of them that broadcasts against logits with size 1
///            along dim (one temperature a row); a floating-point tensor gets a gradient too. One of no
///            dimensions on the CPU goes with logits on any device.
///   mask     bool, broadcastable to logits, true where a class may be chosen; elsewhere the logit
///            counts as -infinity.
///   seed     a number, or an int64 tensor shaped as logits without dim (one seed a row); {}: drawn
///            from `generator`, and without one from torch's default generator of the device.
/// A row with NaN, +infinity, or with every class at -infinity gives NaN along the row. Ties go to the
/// lowest class.
///
/// Errors: c10::TypeError, c10::IndexError, c10::ValueError and c10::Error, saying what was expected
/// and what came.
///
/// Sources: Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017, section 2;
/// Maddison, Mnih, Teh, "The concrete distribution", ICLR 2017, section 3; Bengio, Leonard, Courville,
/// "Estimating or propagating gradients through stochastic neurons", 2013, section 4 (straight-through).
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#if defined(__GNUC__)
#define GUMBEL_EXT_API __attribute__((visibility("default")))
#else
#define GUMBEL_EXT_API
#endif

namespace gumbel_ext {

/// A number for all rows, or a tensor with one for each. Made from either implicitly.
struct GUMBEL_EXT_API Temperature {
  double number = 1;
  std::optional<at::Tensor> rows;

  Temperature(double number) : number(number) {
  }
  Temperature(const at::Tensor& rows) : rows(rows) {
  }
};

/// A seed for all rows, a tensor with one for each, or {}: drawn from a generator. Made from any implicitly; an
/// undefined tensor is {}.
struct GUMBEL_EXT_API Seed {
  std::optional<std::int64_t> number;
  std::optional<at::Tensor> rows;

  Seed() = default;
  Seed(int number) : number(number) {
  }
  Seed(std::int64_t number) : number(number) {
  }
  Seed(std::optional<std::int64_t> number) : number(number) {
  }
  Seed(const at::Tensor& tensor) {
    if (tensor.defined()) rows = tensor;
  }
};

/// Tempered softmax, p_i = e^{x_i / tau} / sum_j e^{x_j / tau}.
GUMBEL_EXT_API at::Tensor softmax(const at::Tensor& logits, const Temperature& tau = 1.0, std::int64_t dim = -1,
                                  const std::optional<at::Tensor>& mask = {});

/// Straight-through one-hot: the value one_hot(argmax x), the gradient of softmax(x / tau).
GUMBEL_EXT_API at::Tensor straight_through(const at::Tensor& logits, const Temperature& tau = 1.0,
                                           std::int64_t dim = -1, const std::optional<at::Tensor>& mask = {});

/// Gumbel-softmax sample, p_i proportional to e^{(x_i + g_i) / tau}; with `hard`, the value
/// one_hot(argmax(x + g)), which is a draw from softmax(x), with p's gradient.
GUMBEL_EXT_API at::Tensor gumbel_softmax(const at::Tensor& logits, const Temperature& tau = 1.0, bool hard = false,
                                         std::int64_t dim = -1, const std::optional<at::Tensor>& mask = {},
                                         const Seed& seed = {}, const std::optional<at::Generator>& generator = {});

/// Gumbel-max sample: the index argmax_i (x_i / temperature + g_i), drawn from softmax(x / temperature)
/// exactly. `temperature` may be 0, in any row: then argmax x.
/// \return int64, shaped as logits without dim, with a last dimension num_samples where that is given.
GUMBEL_EXT_API at::Tensor gumbel_max(const at::Tensor& logits, const Temperature& temperature = 1.0,
                                     std::int64_t dim = -1, std::optional<std::int64_t> num_samples = {},
                                     const std::optional<at::Tensor>& mask = {}, const Seed& seed = {},
                                     const std::optional<at::Generator>& generator = {});

/// A draw and what belongs to it, by `sample`.
struct GUMBEL_EXT_API Sample {
  at::Tensor index;     ///< int64, shaped as logits without dim, with a last dimension num_samples where that is given
  at::Tensor log_prob;  ///< shaped as index; float32 (float64 for float64)
  at::Tensor entropy;   ///< one a row, shaped as logits without dim; of log_prob's dtype
};

/// Gumbel-max sample with its answers. The index i is gumbel_max's, exactly; with p = softmax(x / T), T the
/// temperature,
///   log_prob = log p_i,    entropy = -sum_k p_k log p_k,
/// each within 4 units in the last place of its exact value, and what rounding x / T changes: near 0 too. Both have
/// gradients with respect to the logits and to a temperature that is a tensor; backward keeps the logits, the index and
/// three numbers a row. At T = 0 the draw is certain: log_prob and entropy are 0, and so are their gradients.
/// Sources: Gumbel, "Statistical theory of extreme values", 1954; Maddison et al., "A* sampling", NeurIPS 2014,
/// section 2.
GUMBEL_EXT_API Sample sample(const at::Tensor& logits, const Temperature& temperature = 1.0, std::int64_t dim = -1,
                             std::optional<std::int64_t> num_samples = {}, const std::optional<at::Tensor>& mask = {},
                             const Seed& seed = {}, const std::optional<at::Generator>& generator = {});

/// The standard Gumbel noise that the functions above add; the last dimension is the class.
/// \return a tensor of `size`, of `dtype` (torch's default dtype) on `device` (the CPU).
GUMBEL_EXT_API at::Tensor gumbel_noise(at::IntArrayRef size, const Seed& seed = {},
                                       const std::optional<at::Generator>& generator = {},
                                       std::optional<at::ScalarType> dtype = {}, std::optional<at::Device> device = {});

/// One-hot sample whose gradient an estimator gives. The value is z = one_hot(i), i = argmax(x / T + g), exactly 0 and
/// 1, the same for every estimator; T is `temperature`, which belongs to the draw, and tau to the gradient alone. With
/// J(p) dy = p * (dy - <p, dy>), the gradient of z is, by `estimator`:
///   "gumbel"    J(p) dy / (tau T), p = softmax((x / T + g) / tau): gumbel_softmax(hard = true)'s.
///   "softmax"   J(p) dy / tau, p = softmax(x / tau), without noise; at T != tau, the decoupled one.
///   "reinmax"   (2 J((z + q) / 2) - J(r) / 2) dy / T, q = softmax(x / (T tau)), r = softmax(x / T). tau gets none.
///   "rao"       the mean of "gumbel"'s over `num_noises` noises given z, the first of which is the draw's own. How the
///               noise depends on the logits is not differentiated.
/// Temperatures that are tensors get the gradients of the same formulas.
/// Sources: Jang et al. 2017; Bengio et al. 2013, and Shah et al., arXiv 2410.13331; Liu et al., "Bridging discrete and
/// backpropagation: straight-through and beyond", NeurIPS 2023; Paulus et al., "Rao-Blackwellizing the straight-through
/// Gumbel-softmax gradient estimator", ICLR 2021.
GUMBEL_EXT_API at::Tensor one_hot_sample(const at::Tensor& logits, const Temperature& tau = 1.0,
                                         const std::string& estimator = "gumbel", const Temperature& temperature = 1.0,
                                         std::int64_t dim = -1, const std::optional<at::Tensor>& mask = {},
                                         const Seed& seed = {}, const std::optional<at::Generator>& generator = {},
                                         std::int64_t num_noises = 10);

/// The chosen rows of a matrix, and which they are.
struct GUMBEL_EXT_API Embedded {
  at::Tensor value;  ///< weight[index], of weight's dtype; NaN where a row of logits has no softmax
  at::Tensor index;  ///< int64, shaped as logits without dim
};

/// one_hot_sample(logits, ...) times weight, without the one-hot rows: weight[index], with the gradients of the
/// product. weight: [..., classes, size], whose first dimensions broadcast to the shape of the index ([G, classes,
/// size] for G groups, of logits of shape [..., G, classes]). The weight's gradient is a sum over the rows that chose
/// it.
GUMBEL_EXT_API Embedded straight_through_embedding(const at::Tensor& logits, const at::Tensor& weight,
                                                   const Temperature& tau = 1.0,
                                                   const std::string& estimator = "gumbel",
                                                   const Temperature& temperature = 1.0, std::int64_t dim = -1,
                                                   const std::optional<at::Tensor>& mask = {}, const Seed& seed = {},
                                                   const std::optional<at::Generator>& generator = {},
                                                   std::int64_t num_noises = 10);

/// Relaxed top-k (Xie, Ermon, "Reparameterizable subset sampling via continuous relaxations", IJCAI 2019): with
/// a_1 = x + g, for j = 1 ... k, p_j = softmax(a_j / tau) and a_{j+1} = a_j + log(1 - p_j); the result is
/// p_1 + ... + p_k. With `hard`, the value is exactly 1 at the k largest of x + g, which are a draw of k classes
/// without replacement, and 0 elsewhere; the gradient is the relaxed result's (straight-through). Where fewer than k
/// classes are possible, each of them gets 1, and the gradient is 0. Requires: 1 <= k <= the number of classes.
GUMBEL_EXT_API at::Tensor relaxed_top_k(const at::Tensor& logits, std::int64_t k, const Temperature& tau = 1.0,
                                        bool hard = false, std::int64_t dim = -1,
                                        const std::optional<at::Tensor>& mask = {}, const Seed& seed = {},
                                        const std::optional<at::Generator>& generator = {});

/// What this library was built as and what it runs on.
struct GUMBEL_EXT_API BuildInfo {
  std::string version;                ///< of gumbel_ext
  std::string torch_version;          ///< the torch it was built for
  bool cuda;                          ///< whether it holds CUDA kernels
  std::string cpu_isa;                ///< the instruction set of the CPU kernels in use
  std::vector<std::string> cpu_isas;  ///< those that this processor could use, the fastest first
  int num_threads;                    ///< torch's threads for one operation
  std::int64_t cpu_cached_bytes;      ///< what large results on the CPU left behind, kept for the next ones
};
GUMBEL_EXT_API BuildInfo build_info();

/// Gives the memory that large results on the CPU left behind back to the system. (What results on a GPU leave is with
/// torch's own allocator.)
GUMBEL_EXT_API void empty_cache();

/// The version of gumbel_ext, "major.minor.patch".
GUMBEL_EXT_API std::string version();

}  // namespace gumbel_ext

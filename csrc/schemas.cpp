// The operators' schemas: of the public ones, and of those behind them (operators.h).
#include <torch/library.h>

#include "cpu/plan.h"
#include "gumbel_ext.h"

namespace gumbel_ext {
namespace {

// build_info() as JSON, for Python.
std::string build_info_json() {
  const BuildInfo info = build_info();
  std::string isas;
  for (const std::string& isa : info.cpu_isas) isas += (isas.empty() ? "\"" : ", \"") + isa + "\"";
  return "{\"version\": \"" + info.version + "\", \"torch_version\": \"" + info.torch_version +
         "\", \"cuda\": " + (info.cuda ? "true" : "false") + ", \"cpu_isa\": \"" + info.cpu_isa +
         "\", \"cpu_isas\": [" + isas + "], \"num_threads\": " + std::to_string(info.num_threads) +
         ", \"cpu_cached_bytes\": " + std::to_string(info.cpu_cached_bytes) + "}";
}

}  // namespace

// Each public operator has an overload for a tensor and for a number, of the temperature and of the seed; those
// for tensors come first, since the first that fits is called and a tensor of one element fits an int too. A
// temperature is a Scalar, which a compiler may leave open.
TORCH_LIBRARY(gumbel_ext, m) {
  const auto define = [&](const std::string& schema, bool random) {
    const std::vector<at::Tag> pure_tags = {at::Tag::pt2_compliant_tag};
    const std::vector<at::Tag> random_tags = {at::Tag::pt2_compliant_tag, at::Tag::nondeterministic_seeded};
    // TorchScript has no such tags: what draws has to have effects there, or two draws are taken for one, or for a
    // constant.
    const auto effects = random ? c10::AliasAnalysisKind::CONSERVATIVE : c10::AliasAnalysisKind::FROM_SCHEMA;
    m.def(torch::schema(schema.c_str(), effects), random ? random_tags : pure_tags);
  };
  struct Overload {
    std::string name, temperature, seed;
  };
  const std::string number = "Scalar NAME=1.0", tensor = "Tensor NAME", seed_number = "SymInt? seed=None",
                    seed_tensor = "Tensor seed";
  const auto named = [](std::string argument, const char* name) {
    return argument.replace(argument.find("NAME"), 4, name);
  };

  for (const auto& [name, temperature] : {std::pair{".tau_tensor", tensor}, std::pair{"", number}})
    for (const std::string op : {"softmax", "straight_through"})
      define(
          op + name + "(Tensor logits, " + named(temperature, "tau") + ", *, int dim=-1, Tensor? mask=None) -> Tensor",
          false);
  const Overload overloads[] = {{".tensors", tensor, seed_tensor},
                                {".tau_tensor", tensor, seed_number},
                                {".seed_tensor", number, seed_tensor},
                                {"", number, seed_number}};
  for (const auto& [name, temperature, seed] : overloads) {
    const std::string rest = ", Tensor? mask=None, " + seed + ", Generator? generator=None) -> Tensor";
    define("gumbel_softmax" + name + "(Tensor logits, " + named(temperature, "tau") +
               ", bool hard=False, *, int dim=-1" + rest,
           true);
    define("gumbel_max" + name + "(Tensor logits, " + named(temperature, "temperature") +
               ", *, int dim=-1, SymInt? num_samples=None" + rest,
           true);
    const std::string results = "(Tensor index, Tensor log_prob, Tensor entropy)";
    define("sample" + name + "(Tensor logits, " + named(temperature, "temperature") +
               ", *, int dim=-1, SymInt? num_samples=None, Tensor? mask=None, " + seed +
               ", Generator? generator=None) -> " + results,
           true);
  }
  for (const auto& [name, seed] : {std::pair{".seed_tensor", seed_tensor}, std::pair{"", seed_number}})
    define("gumbel_noise" + std::string(name) + "(SymInt[] size, *, " + seed +
               ", Generator? generator=None, ScalarType? dtype=None, Device? device=None, SymInt class_offset=0, "
               "SymInt row_offset=0, int draw=0) -> Tensor",
           true);

  // Both temperatures are numbers, or both tensors.
  for (const auto& [name, temperature, seed] : overloads) {
    const bool numbers = temperature == number;
    const std::string kind = numbers ? "Scalar " : "Tensor? ", one = numbers ? "=1.0" : "=None";
    const std::string rest = kind + "tau" + one + ", *, str estimator=\"gumbel\", " + kind + "temperature" + one +
                             ", int dim=-1, Tensor? mask=None, " + seed +
                             ", Generator? generator=None, int num_noises=10) -> ";
    define("one_hot_sample" + name + "(Tensor logits, " + rest + "Tensor", true);
    define(
        "straight_through_embedding" + name + "(Tensor logits, Tensor weight, " + rest + "(Tensor value, Tensor index)",
        true);
  }

  m.def("_build_info() -> str", build_info_json);
  m.def("empty_cache() -> ()", empty_cache);
  m.def("_force_cpu_plan(int[] choices) -> ()", cpu::force_plan);
  const std::string source = "SymInt? seed, Tensor? row_seeds, Generator? generator",
                    numbers = ", SymInt[]? numbers=None, int call=0";
  const std::string inputs =
      "(Tensor logits, Tensor? mask, float tau, Tensor? tau_rows, bool noise, " + source + ", int dim";
  define("_relaxed" + inputs + numbers + ") -> Tensor", true);
  define("_log_relaxed" + inputs + numbers + ") -> Tensor", true);
  define("_one_hot" + inputs + numbers + ") -> Tensor", true);
  define("_one_hot_relaxed" + inputs + numbers + ") -> (Tensor, Tensor)", true);
  for (const auto& [name, result] :
       {std::pair{"_index", "Tensor"}, std::pair{"_scored_index", "(Tensor index, Tensor score)"},
        std::pair{"_draw", "(Tensor index, Tensor statistics)"},
        std::pair{"_scored_draw", "(Tensor index, Tensor score, Tensor statistics)"}})
    define(std::string(name) + "(Tensor logits, Tensor? mask, float temperature, Tensor? temperature_rows, " + source +
               ", int dim, SymInt? num_samples" + numbers + ") -> " + result,
           true);
  const std::string drawn_classes =
      "Tensor logits, Tensor? mask, float temperature, Tensor? temperature_rows, Tensor index, Tensor statistics, "
      "int dim";
  define("_log_prob(" + drawn_classes + ") -> (Tensor log_prob, Tensor entropy)", false);
  define("_log_prob_backward(Tensor? grad_log_prob, Tensor? grad_entropy, " + drawn_classes +
             ", bool need_temperature) -> (Tensor, Tensor)",
         false);
  define("_top_classes(Tensor logits, int k, Tensor? mask, float temperature, Tensor? temperature_rows, " + source +
             ", int dim" + numbers + ", bool relative=True) -> (Tensor index, Tensor found, Tensor statistics)",
         true);
  define("_top_scores(Tensor found, Tensor statistics, Tensor log_probs) -> Tensor", false);
  define("_log_gumbel_softmax(Tensor logits, Tensor tau, " + source + ") -> Tensor", true);
  const std::string drawn =
      "Tensor logits, Tensor? mask, float temperature, Tensor? temperature_rows, float tau, "
      "Tensor? tau_rows, ";
  define("_sample(" + drawn + source + ", int dim" + numbers + ") -> (Tensor, Tensor)", true);
  const std::string estimator =
      drawn +
      "Tensor index, Tensor? seed, Tensor? row_seeds, int estimator, int num_noises, int dim, "
      "SymInt[]? numbers, bool drawn";
  define("_choice(Tensor? weight, " + estimator + ") -> Tensor", false);
  define("_estimate(Tensor grad, " + estimator + ", bool need_temperature, bool need_tau) -> (Tensor, Tensor, Tensor)",
         false);
  define("_one_hot_of(Tensor index, Tensor logits, int dim) -> Tensor", false);
  define("_noise(Tensor like, " + source + numbers + ", int draw=0) -> Tensor", true);
  define("_noise_at(Tensor classes, ScalarType dtype, SymInt? seed, Tensor? row_seeds) -> Tensor", false);
  define(
      "_backward(Tensor grad, Tensor relaxed, float tau, Tensor? tau_rows, int dim, bool need_logits, "
      "bool need_tau) -> (Tensor, Tensor)",
      false);
  define("_backward_(Tensor grad, Tensor(a!) relaxed, float tau, Tensor? tau_rows, int dim, bool need_tau) -> Tensor",
         false);

  for (const auto& [name, temperature, seed] : overloads)
    define("gumbel_top_k" + name + "(Tensor logits, int k, " + named(temperature, "temperature") +
               ", *, int dim=-1, Tensor? mask=None, " + seed +
               ", Generator? generator=None) -> (Tensor indices, Tensor log_probs, Tensor scores)",
           true);
  for (const auto& [name, temperature, seed] : overloads)
    define("relaxed_top_k" + name + "(Tensor logits, int k, " + named(temperature, "tau") +
               ", bool hard=False, *, int dim=-1, Tensor? mask=None, " + seed +
               ", Generator? generator=None) -> Tensor",
           true);
  define("_top_k(Tensor logits, int k, bool hard, Tensor? mask, float tau, Tensor? tau_rows, " + source + ", int dim" +
             numbers + ") -> (Tensor, Tensor)",
         true);
  define(
      "_top_k_backward(Tensor grad, Tensor scores, int k, Tensor tau, int dim, bool need_logits, bool need_tau) -> "
      "(Tensor, Tensor)",
      false);
}

}  // namespace gumbel_ext

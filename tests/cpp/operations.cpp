// The public functions: defaults, every kind of argument, the same numbers as Python, and errors.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gumbel_ext/gumbel_ext.h>

#include "check.h"

namespace {

const at::Tensor kLogits = at::arange(24, at::kFloat).mul(37).remainder(11).view({4, 6}) * 0.25;

bool indices_are(const at::Tensor& indices, at::IntArrayRef expected) {
  return indices.scalar_type() == at::kLong && indices.flatten().equal(at::tensor(expected, at::kLong));
}

// What Python's gumbel_ext prints; tests/test_indices.py holds it to an independent implementation.
void known_indices() {
  const at::Tensor& x = kLogits;
  EXPECT(indices_are(gumbel_ext::gumbel_max(x, 1.0, -1, {}, {}, 42), {2, 0, 4, 0}));
  EXPECT(indices_are(gumbel_ext::gumbel_max(x, 1.0, -1, 3, {}, 42), {2, 2, 2, 0, 5, 2, 4, 4, 1, 0, 1, 1}));
  EXPECT(indices_are(gumbel_ext::gumbel_max(x, 0.5, -1, {}, {}, 42), {2, 2, 4, 0}));
  EXPECT(indices_are(gumbel_ext::gumbel_max(x, 1.0, -1, {}, {}, at::arange(4, at::kLong)), {5, 2, 4, 1}));
  EXPECT(indices_are(gumbel_ext::gumbel_max(x, 1.0, -1, {}, {}, std::int64_t(-1)), {4, 4, 4, 0}));
  EXPECT(indices_are(gumbel_ext::gumbel_max(x, 0.0), {5, 2, 4, 1}));
}

void defaults() {
  const at::Tensor& x = kLogits;
  EXPECT(gumbel_ext::softmax(x).allclose(x.softmax(-1)));
  EXPECT(gumbel_ext::softmax(x, 0.5, 0).allclose((x / 0.5).softmax(0)));
  EXPECT(gumbel_ext::straight_through(x).argmax(-1).equal(x.argmax(-1)));
  EXPECT(gumbel_ext::gumbel_softmax(x).sum(-1).allclose(at::ones(4)));
  EXPECT(gumbel_ext::gumbel_max(x).sizes() == at::IntArrayRef({4}));
  EXPECT(gumbel_ext::gumbel_noise({2, 3}).sizes() == at::IntArrayRef({2, 3}));
  EXPECT(gumbel_ext::gumbel_noise({3}, 1, {}, at::kDouble).scalar_type() == at::kDouble);
}

void arguments() {
  const at::Tensor& x = kLogits;
  const at::Tensor noise = gumbel_ext::gumbel_noise(x.sizes(), 42);
  const at::Tensor index = gumbel_ext::gumbel_max(x, 1.0, -1, {}, {}, 42);
  EXPECT((x + noise).argmax(-1).equal(index));
  const auto part = gumbel_ext::gumbel_noise({2, 1}, 42, {}, {}, {}, /*class_offset=*/1, /*row_offset=*/2);
  EXPECT(part.equal(noise.slice(0, 2, 4).slice(1, 1, 2)));
  EXPECT(gumbel_ext::gumbel_softmax(x, 0.3, /*hard=*/true, -1, {}, 42).argmax(-1).equal(index));
  EXPECT(gumbel_ext::gumbel_softmax(x, 0.3, /*hard=*/false, -1, {}, 42).allclose(((x + noise) / 0.3).softmax(-1)));

  const at::Tensor taus = at::tensor({0.5, 1.0, 2.0, 4.0}).to(at::kFloat).view({4, 1});
  EXPECT(gumbel_ext::softmax(x, taus).allclose((x / taus).softmax(-1)));

  const at::Tensor mask = at::arange(6) != 2;
  EXPECT(gumbel_ext::softmax(x, 1.0, -1, mask).select(1, 2).eq(0).all().item<bool>());

  const at::Tensor top = std::get<1>((x + noise).topk(2)), hot = at::zeros_like(x).scatter(-1, top, 1);
  EXPECT(gumbel_ext::relaxed_top_k(x, 2, 0.3, /*hard=*/true, -1, {}, 42).equal(hot));
  EXPECT(gumbel_ext::relaxed_top_k(x, 2, 0.3, /*hard=*/false, -1, {}, 42).sum(-1).allclose(at::full({4}, 2.f)));

  const auto drawn = gumbel_ext::sample(x, 0.5, -1, {}, {}, 42);
  const at::Tensor log_p = (x / 0.5).log_softmax(-1);
  EXPECT(drawn.index.equal(gumbel_ext::gumbel_max(x, 0.5, -1, {}, {}, 42)));
  EXPECT(drawn.log_prob.allclose(log_p.gather(-1, drawn.index.unsqueeze(-1)).squeeze(-1)));
  EXPECT(drawn.entropy.allclose(-(log_p.exp() * log_p).sum(-1)));

  const auto best = gumbel_ext::gumbel_top_k(x, 2, 0.5, -1, {}, 42);
  EXPECT(best.indices.select(-1, 0).equal(drawn.index));
  EXPECT(best.log_probs.allclose(log_p.gather(-1, best.indices)));
  EXPECT(best.scores.allclose((log_p + gumbel_ext::gumbel_noise(x.sizes(), 42)).gather(-1, best.indices)));

  const at::Tensor one_hot = gumbel_ext::gumbel_softmax(x, 1.0, /*hard=*/true, -1, {}, 42);
  for (const char* estimator : {"gumbel", "softmax", "reinmax", "rao"})
    EXPECT(gumbel_ext::one_hot_sample(x, 0.5, estimator, 1.0, -1, {}, 42).equal(one_hot));
  const at::Tensor weight = at::randn({x.size(-1), 3});
  const auto chosen = gumbel_ext::straight_through_embedding(x, weight, 0.5, "gumbel", 1.0, -1, {}, 42);
  EXPECT(chosen.value.equal(weight.index_select(0, index)) && chosen.index.equal(index));

  const auto draw = [&](std::uint64_t seed) {
    return gumbel_ext::gumbel_max(x, 1.0, -1, 100, {}, {}, at::detail::createCPUGenerator(seed));
  };
  EXPECT(draw(5).equal(draw(5)));
  EXPECT(!draw(5).equal(draw(6)));
}

void errors() {
  const at::Tensor& x = kLogits;
  EXPECT_THROWS(c10::ValueError, "tau: expected a positive finite number, got -1", gumbel_ext::softmax(x, -1.0));
  EXPECT_THROWS(c10::TypeError, "logits: expected float32", gumbel_ext::softmax(x.to(at::kLong)));
  EXPECT_THROWS(c10::IndexError, "ut of range", gumbel_ext::softmax(x, 1.0, 2));
  EXPECT_THROWS(c10::ValueError, "seed: expected one a row",
                gumbel_ext::gumbel_max(x, 1.0, -1, {}, {}, at::zeros(3, at::kLong)));
  EXPECT_THROWS(c10::Error, "generator",
                gumbel_ext::gumbel_max(x, 1.0, -1, {}, {}, 1, at::detail::createCPUGenerator(1)));
}

void build_information() {
  const auto info = gumbel_ext::build_info();
  EXPECT(info.version == gumbel_ext::version());
  EXPECT(info.version == GUMBEL_EXT_VERSION);
  EXPECT(info.num_threads >= 1 && !info.cpu_isas.empty() && !info.torch_version.empty());
}

}  // namespace

int main() {
  known_indices();
  defaults();
  arguments();
  errors();
  build_information();
  return failures != 0;
}

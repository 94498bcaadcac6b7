#include "call.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "values.h"

namespace {

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16};
constexpr std::int64_t kSizes[] = {31, 32, 63, 64, 65, 127, 128, 129, 255, 257, 1000, 2047, 2048, 2049, 4099, 17000};
constexpr std::int64_t kMostElements = 1 << 15;

class Maker {
 public:
  Maker(Input head, Values values) : in_(head), values_(values) {
  }

  Call make() {
    call_.operation = Operation(in_.choose(6));
    const auto sizes = make_sizes();
    const int kind = in_.choose(64);
    call_.logits = make_tensor(sizes, kind == 63 ? at::kLong : kTypes[kind % 4], in_.choose(4));
    call_.valid &= kind != 63;
    make_dim();
    if (call_.has_tau()) make_tau();
    if (call_.has_tau()) make_mask();
    if (call_.has_noise()) make_seed();
    if (call_.operation == Operation::kGumbelMax) make_num_samples();
    call_.threads = 1 + in_.choose(3);
    make_gradient();
    return std::move(call_);
  }

 private:
  std::vector<std::int64_t> make_sizes() {
    std::vector<std::int64_t> sizes(in_.choose(5));
    std::int64_t left = kMostElements;
    for (auto& size : sizes) {
      const int byte = in_.take<std::uint8_t>();
      size = byte < 160 ? byte % 8 : byte < 240 ? byte - 160 : kSizes[byte - 240];
      if (size > left) size = 1;
      if (size > 0) left /= size;
    }
    return sizes;
  }

  // A tensor whose strides may be any, its last element the last of its memory.
  at::Tensor make_tensor(at::IntArrayRef sizes, at::ScalarType type, int way, bool temperatures = false) {
    const int ndim = int(sizes.size()), layout = in_.choose(4), offset = layout == 0 ? 0 : in_.choose(4);
    std::vector<std::int64_t> strides(ndim);
    std::int64_t next = 1, extent = 1;
    for (int i = 0, first = layout == 0 ? 0 : in_.choose(std::max(1, ndim)); i < ndim; ++i) {
      const int d = (ndim - 1 - i + first) % ndim, kind = layout < 2 ? 0 : in_.choose(16);
      strides[d] = kind < 8 ? next : kind < 11 ? 2 * next : kind < 13 ? 0 : kind;
      next = std::max(next, strides[d] * std::max<std::int64_t>(1, sizes[d]));
      extent = sizes[d] == 0 || extent == 0 ? 0 : extent + (sizes[d] - 1) * strides[d];
    }
    const at::Tensor flat = at::zeros({offset + extent}, type);
    if (temperatures)
      values_.fill_temperatures(flat, way);
    else
      values_.fill(flat, way);
    call_.memory.push_back(flat);
    return flat.as_strided(sizes, strides, offset);
  }

  void make_dim() {
    const std::int64_t count = std::max<std::int64_t>(1, call_.logits.dim()), kMost = std::int64_t(1) << 62;
    const std::int64_t out_of_range[] = {count, -count - 1, kMost, -kMost};
    const int byte = in_.take<std::uint8_t>();
    const bool fits = byte < 252;
    call_.dim = fits ? byte % (2 * count) - count : out_of_range[byte - 252];
    if (call_.has_tau()) call_.valid &= fits;
  }

  // A shape that broadcasts to the logits', with size 1 along `without` where that is a dimension.
  std::vector<std::int64_t> make_broadcastable(std::int64_t without, bool fits) {
    std::vector<std::int64_t> sizes = call_.logits.sizes().vec();
    const int ones = in_.take<std::uint8_t>();
    for (int d = 0; d < int(sizes.size()); ++d)
      if (d == without || ones >> d & 1) sizes[d] = 1;
    const int dropped = ones >> 4;
    if (dropped < int(sizes.size())) sizes.erase(sizes.begin(), sizes.begin() + dropped);
    if (!fits) sizes.insert(sizes.begin(), std::size_t(call_.logits.dim()) + 1 - sizes.size(), 1);
    return sizes;
  }

  void make_tau() {
    const bool may_be_zero = call_.operation == Operation::kGumbelMax;
    const auto is_valid = [&](double tau) { return std::isfinite(tau) && (may_be_zero ? tau >= 0 : tau > 0); };
    const int kind = in_.take<std::uint8_t>();
    if (kind < 128) {
      const double any = in_.take<double>();
      call_.tau = kind < 32 ? any : kind < 40 ? 0 : kind < 72 ? 1 : kTemperatures[kind % std::size(kTemperatures)];
      call_.valid &= is_valid(call_.tau.number);
      return;
    }
    const bool floats = kind < 252, fits = kind < 248 || !floats;
    const auto sizes = make_broadcastable(call_.wrapped_dim(), fits);
    const at::Tensor rows = make_tensor(sizes, floats ? kTypes[kind % 4] : at::kLong, in_.choose(8), true);
    call_.tau = rows;
    call_.valid &= floats && fits;
    if (!call_.valid) return;
    auto row_sizes = call_.logits.sizes().vec();
    if (!row_sizes.empty()) row_sizes[call_.wrapped_dim()] = 1;
    const at::Tensor all = rows.expand(row_sizes).to(at::kDouble).contiguous();
    for (std::int64_t r = 0; r < all.numel(); ++r) call_.valid &= is_valid(all.const_data_ptr<double>()[r]);
  }

  void make_mask() {
    const int kind = in_.take<std::uint8_t>();
    if (kind < 128) return;
    const bool bools = kind < 254, fits = kind < 252 || !bools;
    call_.mask = make_tensor(make_broadcastable(-1, fits), bools ? at::kBool : at::kByte, 0);
    call_.valid &= bools && fits;
  }

  void make_seed() {
    const int kind = in_.take<std::uint8_t>();
    call_.default_seed = kind;
    const bool with_generator = kind % 4 == 3, seeded = kind % 16 < 12;
    if (with_generator) call_.generator = in_.take<std::uint64_t>();
    if (!seeded) return;
    call_.valid &= !with_generator;
    if (kind % 16 < 6) {
      call_.seed = in_.take<std::int64_t>();
      return;
    }
    auto sizes = call_.logits.sizes().vec();
    const std::int64_t dim = call_.has_tau() ? call_.wrapped_dim() : call_.logits.dim() - 1;
    if (dim >= 0 && dim < std::int64_t(sizes.size())) sizes.erase(sizes.begin() + dim);
    const bool ints = kind < 250, fits = kind < 245 || !ints;
    if (!fits) sizes.push_back(1);
    call_.seed = make_tensor(sizes, ints ? at::kLong : at::kInt, 0);
    call_.valid &= ints && fits;
  }

  void make_num_samples() {
    const int kind = in_.take<std::uint8_t>();
    const auto sizes = call_.logits.sizes();
    if (call_.valid && !sizes.empty()) call_.valid &= sizes[call_.wrapped_dim()] > 0;
    if (kind < 128) return;
    call_.num_samples = kind < 240 ? kind % 5 : kind < 252 ? 60 + kind % 12 : kind < 254 ? -1 : std::int64_t(1) << 31;
    call_.valid &= kind < 252;
    if (kind < 252 && call_.logits.numel() * *call_.num_samples > 1 << 18) call_.num_samples = 1;
  }

  void make_gradient() {
    const int kind = in_.take<std::uint8_t>();
    const bool floats = call_.logits.is_floating_point();
    if (!floats || !call_.has_tau()) return;
    call_.logits.requires_grad_(kind & 1);
    if (call_.tau.rows && call_.tau.rows->is_floating_point()) call_.tau.rows->requires_grad_(kind & 2);
    call_.differentiate_twice = (kind & 12) == 12;
    call_.upstream = make_tensor(call_.logits.sizes(), call_.logits.scalar_type(), kind >> 4);
  }

  Input in_;
  Values values_;
  Call call_;
};

}  // namespace

Call make_call(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kHead = 80;
  const std::size_t head = std::min(size, kHead);
  const Input values(data + head, size - head);
  return Maker(Input(data, head), Values(values.rest())).make();
}

at::Tensor Call::run(Operation as) const {
  at::set_num_threads(threads);
  auto default_generator = at::detail::getDefaultCPUGenerator();
  default_generator.set_current_seed(default_seed);
  std::optional<at::Generator> source;
  if (generator) source = at::detail::createCPUGenerator(*generator);
  switch (as) {
    case Operation::kSoftmax:
      return gumbel_ext::softmax(logits, tau, dim, mask);
    case Operation::kStraightThrough:
      return gumbel_ext::straight_through(logits, tau, dim, mask);
    case Operation::kGumbelSoftmax:
    case Operation::kGumbelSoftmaxHard:
      return gumbel_ext::gumbel_softmax(logits, tau, as == Operation::kGumbelSoftmaxHard, dim, mask, seed, source);
    case Operation::kGumbelMax:
      return gumbel_ext::gumbel_max(logits, tau, dim, num_samples, mask, seed, source);
    default:
      return gumbel_ext::gumbel_noise(logits.sizes(), seed, source, logits.scalar_type());
  }
}

std::ostream& operator<<(std::ostream& out, const Call& call) {
  constexpr const char* kNames[] = {"softmax",    "straight_through", "gumbel_softmax", "gumbel_softmax(hard)",
                                    "gumbel_max", "gumbel_noise"};
  const auto show = [&](const char* name, const at::Tensor& t) {
    out << " " << name << "=" << t.scalar_type() << t.sizes() << " strides " << t.strides() << " offset "
        << t.storage_offset() << (t.requires_grad() ? " requires_grad" : "");
  };
  out << kNames[int(call.operation)] << (call.valid ? "" : ", refused:");
  show("logits", call.logits);
  out << " dim=" << call.dim;
  if (call.tau.rows)
    show("tau", *call.tau.rows);
  else
    out << " tau=" << call.tau.number;
  if (call.mask) show("mask", *call.mask);
  if (call.seed.rows) show("seed", *call.seed.rows);
  if (call.seed.number) out << " seed=" << *call.seed.number;
  if (call.generator) out << " generator=" << *call.generator;
  if (call.num_samples) out << " num_samples=" << *call.num_samples;
  return out << " threads=" << call.threads;
}

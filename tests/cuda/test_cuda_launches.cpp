// What a captured step launches, as the emulator counts it: by kind, so that launches do not come back unnoticed. With -s the tables of docs/gpu.md.
#include <algorithm>
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "backends/cuda/kernel_name.h"
#include "bench/training_step.h"
#include "train/captured_step.h"

using namespace norma;
using namespace norma::train;

namespace {

const Device device{Device::Kind::cuda, 0};
using Names = std::vector<std::string>;

Names launches_of(const std::function<void()>& work) { return backend(device).capture(work)->launches(); }

/// How many of them begin so.
std::size_t count(const Names& launches, const std::string& start) {
  return static_cast<std::size_t>(std::count_if(launches.begin(), launches.end(), [&](const std::string& name) { return name.starts_with(start); }));
}

std::string table(const Names& launches) {
  std::string text = fmt::format("| launches | {} |\n|---|---|\n", launches.size());
  for (const auto& [number, kind] : bench::by_kind(launches)) text += fmt::format("| `{}` | {} |\n", kind, number);
  return text;
}

/// ViT-T on 32x32 pixels in training, of which nothing has run.
struct Tiny {
  TrainConfig config;
  Learner run;

  static TrainConfig of(const char* dtype) {
    TrainConfig c;
    c.device = "cuda", c.dtype = dtype, c.ema = 0.999;
    return c;
  }
  explicit Tiny(const char* dtype) : config(of(dtype)), run(config, vit_config(config, 32, 3, 10), {parameter_dtype(config), device}) {}
};

}  // namespace

TEST_CASE("the launches of a ViT-T step by kind", "[cuda_launches]") {
  const bool mixed = GENERATE(true, false);
  Tiny tiny(mixed ? "bf16" : "f32");
  const datasets::Batch batch{zeros({64, 3, 32, 32}, {DType::f32, device}), zeros({64}, {DType::i64, device}), {}};
  const auto step = StepGraph::capture(tiny.run.model, *tiny.run.optimizer, 0, [&] {  // as CapturedStep does
    const StepOutputs out = forward_backward(tiny.run.model, batch, tiny.config);
    const Tensor squares = tiny.run.apply(out.loss, tiny.config.clip);
    return std::vector<Tensor>{out.loss, out.correct, squares, out.fro};
  });
  const Names launches = step->launches();
  {
    INFO(tiny.config.dtype << ", " << tiny.config.width << " wide, " << tiny.config.depth << " blocks\n" << table(launches));
    CHECK(launches.size() == (mixed ? 290u : 293u));
  }
  CHECK(count(launches, "norm_part_kernel") == 25);
  CHECK(count(launches, "norm_backward_fused_kernel") == 25);
  CHECK(count(launches, "norm_join_kernel") == 1);
  CHECK(count(launches, "scale_kernel") == 1);
  CHECK(count(launches, "?") == 0);
}

TEST_CASE("the moving average of ViT-T takes two launches, and follows a model that changes between replays", "[cuda_launches]") {
  Tiny a("f32"), b("f32");
  const auto graph = backend(device).capture([&] { a.run.ema->update(a.run.model); });
  CHECK(graph->launches() == Names(2, "average_kernel<float>"));
  const nn::Named now = nn::state(b.run.model);
  const Names ops = launches_of([&] {  // as it was before: op by op
    for (std::size_t i = 0; i < now.size(); ++i) {
      const Tensor& average = b.run.ema->values()[i].second;
      copy_into(average, average * 0.999 + now[i].second.detach() * (1 - 0.999));
    }
  });
  CHECK(now.size() == 152);
  CHECK(ops.size() == 6 * now.size());
  for (int step = 0; step < 3; ++step) {
    for (Tiny* t : {&a, &b})
      for (const auto& [name, p] : nn::parameters(t->run.model)) backend(device).random(RandomKind::normal, {static_cast<std::uint64_t>(step), 5}, 0, p.view());
    graph->replay();
    b.run.ema->update(b.run.model);
  }
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < now.size(); ++i) wrong += a.run.ema->values()[i].second.values() != b.run.ema->values()[i].second.values();
  CHECK(wrong == 0);
}

TEST_CASE("the gradients of a norm take two launches where a warp holds a short row, else three", "[cuda_launches]") {
  const auto launches = [](Index n, DType dtype) {
    const Place wide{wide_of(dtype), device};
    const Tensor x = ones({40, n}, {dtype, device}), dx = ones({40, n}, {dtype, device}), mean = zeros({40}, wide), rstd = ones({40}, wide), dweight = ones({n}, wide), dbias = ones({n}, wide);
    LayerNormBackward back{x.view(), x.view(), dx.view()};
    back.mean = mean.view(), back.rstd = rstd.view(), back.dweight = dweight.view(), back.dbias = dbias.view();
    return launches_of([&] { backend(device).layer_norm_backward(back); });
  };
  CHECK(launches(192, DType::bf16) == Names{"norm_backward_fused_kernel<bf16, float, 2, 2>", "norm_join_kernel<float>"});
  CHECK(launches(512, DType::f32) == Names{"norm_backward_fused_kernel<float, float, 4, 2>", "norm_join_kernel<float>"});
  CHECK(launches(516, DType::f32) == Names{"norm_backward_part_kernel<float, float, 6>", "norm_sums_kernel<float, 2>", "norm_join_kernel<float>"});
  CHECK(launches(191, DType::f32) == Names{"norm_backward_kernel<float, float, false>", "norm_sums_kernel<float, 1>", "norm_join_kernel<float>"});
  CHECK(launches(192, DType::f64).size() == 3);
}

TEST_CASE("a backward pass adds up the sums of all norms by one launch", "[cuda_launches]") {
  const auto joins = [](bool leaves) {
    const Place place{DType::f32, device};
    Tensor x = ones({40, 64}, place);
    Tensors weights;
    for (int i = 0; i < 90; ++i) weights.push_back(ones({64}, place).track());  // more than a table has rows
    return count(launches_of([&] {
                   for (const Tensor& w : weights) x = rms_norm(x, leaves ? w : w * 1.0);
                   backward(sum(x));
                 }),
                 "norm_join_kernel");
  };
  CHECK(joins(true) == 2);
  CHECK(joins(false) == 90);
}

TEST_CASE("many parts of a sum meet in a block for each output, few in a thread", "[cuda_launches]") {
  const auto second = [](Index rows, Index n) {
    const Tensor x = empty({rows, n}, {DType::bf16, device}), out = empty({1, n}, {DType::f32, device});
    const Names launches = launches_of([&] { backend(device).reduce(ReduceOp::sum, x.view(), out.view()); });
    CHECK(launches.front().starts_with("reduce_by_thread<"));
    return launches.back().substr(0, launches.back().find('<'));
  };
  CHECK(second(33280, 192) == "join_many_parts");  // gradients of biases
  CHECK(second(33280, 3072) == "join_parts");
  CHECK(second(100, 192) == "reduce_by_thread");  // one part, and no second launch
}

TEST_CASE("kernels are named without what surrounds the name", "[cuda_launches]") {
  CHECK(cuda::kernel_name("_ZN5norma4cuda12_GLOBAL__N_111join_kernelEPKdlPd") == "join_kernel");
  CHECK(cuda::kernel_name("_ZN5norma4cuda12_GLOBAL__N_111fill_kernelINS_4bf16EEEvNS0_8ElementsILi1EEEd") == "fill_kernel<bf16>");
  CHECK(cuda::kernel_name("main") == "main");
  CHECK(cuda::kernel_name("?") == "?");
  const Tensor x = ones({8}, {DType::f32, device}), y = ones({4, 4}, {DType::f32, device});
  CHECK(launches_of([&] { fill(x, 2), matmul(y, y); }) == Names{"fill_kernel<float>", "product"});
}

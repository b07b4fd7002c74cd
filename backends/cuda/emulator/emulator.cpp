#include "backends/cuda/emulator/emulator.h"

#include <ucontext.h>

#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cuda/emulator/order.h"
#include "backends/cuda/emulator/warpgroup.h"
#include "core/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace norma::cuda::emulator {
namespace {

constexpr std::size_t stack_bytes = std::size_t{256} << 10, guard_bytes = 64;
/// Stacks begin as many bytes apart from a page's end: all at the same place of a page would share eight lines of the first cache.
constexpr std::size_t colours = 32, colour_bytes = 128;

struct Copy {
  void* to;
  std::array<char, 16> bytes;
};

/// Where to go on.
struct Context {
  ucontext_t start;
  void* jump[5];
  bool started = false;
};
/// Leaves `from` and goes on with `to`. After its start a fiber is entered by the compiler's own jump: swapcontext asks the system twice, and
/// longjmp the C library for what it does not know of these stacks. A function of its own, which is told to no sanitizer: switch_to tells it.
__attribute__((noinline, no_sanitize("address"), no_sanitize("undefined"))) void jump(Context& from, Context& to) {
#if defined(__SANITIZE_THREAD__)
  swapcontext(&from.start, &to.start);
#else
  if (__builtin_setjmp(from.jump) == 0) {
    from.started = true;
    if (to.started) __builtin_longjmp(to.jump, 1);
    setcontext(&to.start);
  }
#endif
}

/// One stack, and the thread that runs on it now.
struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  Strand* strand = new_strand();
  unsigned thread = 0;
  std::vector<std::vector<Copy>> copies;  // groups of asynchronous copies under way; the last is open
  Products products;
};

/// Threads that meet: what each brings is read until its next meeting, in two places by turns.
struct Meeting {
  const char* what = nullptr;
  unsigned arrived = 0, turn = 0;
  std::vector<Fiber*> waiting;
  void reset() { arrived = 0, waiting.clear(); }
};
struct Warp : Meeting {
  Slots slots[2];
  Rendezvous order;
};
struct Warpgroup : Meeting {
  std::array<ProductCall, 128> calls;
  std::shared_ptr<Product> products[2];
};

class Block {
 public:
  void run(const std::function<void()>& kernel, std::size_t shared_bytes, bool falling);

  void barrier() {
    Fiber* me = current_;
    const unsigned turn = barriers_;
    order_.arrive(turn);
    if (++at_barrier_ == here_.threads) {
      at_barrier_ = 0;
      ++barriers_;
      async_proxy_.barrier();
      for (Fiber* f : waiting_) ready_.push_back(f);
      waiting_.clear();
    } else {
      waiting_.push_back(me);
      wait(me);
    }
    order_.leave(turn);
  }
  void warp_barrier() {
    Warp& warp = warps_[current_->thread / 32];
    const unsigned turn = warp.turn;
    warp.order.arrive(turn);
    meet(warp, 32, "warp_barrier", [] {});
    warp.order.leave(turn);
  }

  const Slots& exchange(const char* what, const void* mine, std::size_t bytes) {
    Warp& warp = warps_[current_->thread / 32];
    Slots& slots = warp.slots[warp.turn % 2];
    if (bytes) std::memcpy(slots.bytes[current_->thread % 32], mine, bytes);
    meet(warp, 32, what, [] {});
    return slots;
  }

  std::shared_ptr<Product> meet_warpgroup(const ProductCall& call) {
    const unsigned number = current_->thread / 128;
    if ((number + 1) * 128 > here_.threads)
      fail("emulator: a product in warpgroup {} of a block of {} threads", number, here_.threads);
    Warpgroup& group = warpgroups_[number];
    std::shared_ptr<Product>& product = group.products[group.turn % 2];
    group.calls[current_->thread % 128] = call;
    meet(group, 128, call.a_in_registers ? "multiply_registers" : "multiply_shared", [&] {
      product = product_of(group.calls);
      under_way_.push_back(product);
    });
    return product;
  }

  std::vector<std::vector<Copy>>& copies() { return current_->copies; }
  Products& products() { return current_->products; }
  AsyncProxy& async_proxy() { return async_proxy_; }

  /// A copy to `shared` begins, and may arrive at once.
  void begin_copy(const void* shared) {
    if (under_way_.empty()) return;
    std::erase_if(under_way_, [](const std::shared_ptr<Product>& p) { return !p->under_way(); });
    for (const std::shared_ptr<Product>& p : under_way_)
      if (p->reads(shared_address(shared)))
        fail("emulator: thread {} copies to shared memory of a product before the whole warpgroup has waited for it",
             current_->thread);
  }

  Here here_;

 private:
  static void enter();
  void fiber_body();
  void wait(Fiber* me) { switch_to(me->context, main_, me); }
  /// Waits until `all` threads are at the meeting; the last one does `finish` before it goes on.
  template <class Finish>
  void meet(Meeting& meeting, unsigned all, const char* what, Finish finish) {
    Fiber* me = current_;
    if (meeting.arrived == 0) meeting.what = what;
    if (meeting.what != what && std::string_view(meeting.what) != what)
      fail("emulator: thread {} of block {} reaches {} where a lane of its warp{} reached {}", me->thread, place(),
           what, all > 32 ? "group" : "", meeting.what);
    if (++meeting.arrived == all) {
      finish();
      meeting.arrived = 0;
      ++meeting.turn;
      for (Fiber* f : meeting.waiting) ready_.push_back(f);
      meeting.waiting.clear();
    } else {
      meeting.waiting.push_back(me);
      wait(me);
    }
  }
  void resume(Fiber* f) {
    current_ = f;
    here_.thread = f->thread;
    switch_to(main_, f->context, nullptr, f);
    current_ = nullptr;
  }
  void switch_to(Context& from, Context& to, Fiber* leaving, Fiber* entering = nullptr);
  std::string place() const { return fmt::format("({}, {}, {})", here_.block[0], here_.block[1], here_.block[2]); }

  const std::function<void()>* kernel_ = nullptr;
  bool falling_ = false;
  unsigned started_ = 0, finished_ = 0, at_barrier_ = 0, barriers_ = 0;
  std::vector<std::unique_ptr<Fiber>> fibers_;  // kept for later blocks
  std::vector<Fiber*> idle_;
  std::deque<Fiber*> ready_;
  std::vector<Fiber*> waiting_;
  std::vector<Warp> warps_;
  std::vector<Warpgroup> warpgroups_;
  AsyncProxy async_proxy_;
  std::vector<std::shared_ptr<Product>> under_way_;
  Context main_;
  Rendezvous order_;
  char begun_ = 0, ended_ = 0;  // of the block, for its threads' order with what the scheduler does
  Strand* main_strand_ = nullptr;
  Fiber* current_ = nullptr;
  std::exception_ptr error_;
#if defined(__SANITIZE_ADDRESS__)
  const void* main_stack_ = nullptr;
  std::size_t main_stack_bytes_ = 0;
#endif
};

thread_local Block* running = nullptr;
bool turned_order = false;
Card played;

void Block::switch_to(Context& from, Context& to, Fiber* leaving, [[maybe_unused]] Fiber* entering) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  if (entering)
    __sanitizer_start_switch_fiber(&fake, entering->stack.get(), stack_bytes);
  else
    __sanitizer_start_switch_fiber(&fake, main_stack_, main_stack_bytes_);
#endif
  enter_strand(entering ? entering->strand : main_strand_);
  jump(from, to);
#if defined(__SANITIZE_ADDRESS__)
  if (leaving)  // back on the fiber: the scheduler was left behind
    __sanitizer_finish_switch_fiber(fake, &main_stack_, &main_stack_bytes_);
  else
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  if (leaving) here_.thread = leaving->thread;
}

void Block::enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &running->main_stack_, &running->main_stack_bytes_);
#endif
  hide();
  running->fiber_body();
}

/// Runs threads one after the other until none is left; a thread that waits keeps the fiber meanwhile. With strands one thread a block.
void Block::fiber_body() {
  for (;;) {
    Fiber* me = current_;
    for (bool done = false; !error_ && !done && started_ < here_.threads; done = strands) {
      const unsigned n = started_++;
      me->thread = here_.thread = falling_ ? here_.threads - 1 - n : n;
      me->copies.clear(), me->products.clear();
      acquire(begun_);
      try {
        {
          const Shown shown;
          (*kernel_)();
        }
        if (!me->copies.empty()) fail("emulator: thread {} of block {} leaves with copies it did not wait for", me->thread, place());
        if (!me->products.none())
          fail("emulator: thread {} of block {} leaves with products it did not wait for", me->thread, place());
      } catch (...) {
        error_ = std::current_exception();
      }
      ++finished_;
    }
    if (!strands) idle_.push_back(me);
    switch_to(me->context, main_, me);
  }
}

void Block::run(const std::function<void()>& kernel, std::size_t shared_bytes, bool falling) {
  kernel_ = &kernel;
  falling_ = falling;
  started_ = finished_ = at_barrier_ = 0;
  error_ = nullptr;
  main_strand_ = current_strand();
  release(begun_);
  if (warps_.size() < here_.threads / 32) warps_.resize(here_.threads / 32);
  if (warpgroups_.size() < here_.threads / 128) warpgroups_.resize(here_.threads / 128);
  for (Warp& warp : warps_) warp.reset();
  for (Warpgroup& group : warpgroups_) group.reset();
  under_way_.clear();
  async_proxy_.begin(here_.shared, shared_bytes, here_.threads);
  ready_.clear(), waiting_.clear();
  if (idle_.size() < fibers_.size()) {  // some ended without a word (strands)
    idle_.clear();
    for (auto& f : fibers_) idle_.push_back(f.get());
  }
  while (finished_ < here_.threads && !error_) {
    Fiber* next = nullptr;
    if (!ready_.empty()) {
      next = ready_.front();
      ready_.pop_front();
    } else if (started_ < here_.threads) {
      if (idle_.empty()) {
        fibers_.push_back(std::make_unique<Fiber>());
        Fiber* f = fibers_.back().get();
        getcontext(&f->context.start);
        f->context.start.uc_stack = {f->stack.get(), 0, stack_bytes - (fibers_.size() % colours) * colour_bytes};
        f->context.start.uc_link = nullptr;
        makecontext(&f->context.start, &Block::enter, 0);
        next = f;
      } else {
        next = idle_.back();
        idle_.pop_back();
      }
    } else {
      unsigned at_exchange = 0;
      const char* what = "";
      for (const Warp& warp : warps_)
        if (warp.arrived) at_exchange += warp.arrived, what = warp.what;
      for (const Warpgroup& group : warpgroups_)
        if (group.arrived) at_exchange += group.arrived, what = group.what;
      error_ = std::make_exception_ptr(Error(fmt::format(
          "emulator: block {} is stuck: {} threads wait at a barrier, {} at {}, {} have left; all of a block must reach a barrier, all "
          "of a warp an exchange",
          place(), at_barrier_, at_exchange, at_exchange ? what : "an exchange", finished_)));
      break;
    }
    resume(next);
  }
  for (auto& f : fibers_) {
    enter_strand(f->strand);
    release(ended_);
  }
  enter_strand(main_strand_);
  acquire(ended_);
  if (error_) {
    fibers_.clear(), idle_.clear();  // abandoned in the middle of a kernel
    std::rethrow_exception(error_);
  }
}

}  // namespace

Here& here() { return running->here_; }
void block_barrier() {
  const Hidden hidden;
  running->barrier();
}
void warp_barrier() {
  const Hidden hidden;
  running->warp_barrier();
}
const Slots& exchange(const char* what, const void* mine, std::size_t bytes) {
  const Hidden hidden;
  return running->exchange(what, mine, bytes);
}
void turn_order(bool turned) { turned_order = turned; }
Card& card() { return played; }
AsyncProxy& async_proxy() { return running->async_proxy(); }
Products& products() { return running->products(); }
std::shared_ptr<Product> meet(const ProductCall& call) { return running->meet_warpgroup(call); }

void refuse_misaligned(const void* p, std::size_t bytes) {
  fail("emulator: thread {} moves {} bytes by one access at {:#x}, which is no multiple of them", here().thread, bytes,
       reinterpret_cast<std::uintptr_t>(p));
}

void copy_async(void* shared, const void* global, bool present) {
  if (present) reads(global, 16);
  writes(shared, 16);  // at any time until it is waited for
  const Hidden hidden;
  const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  if (address(shared) % 16 || (present && address(global) % 16))
    fail("emulator: copy_async to {:#x} from {:#x}: both must be multiples of 16", address(shared), address(global));
  running->begin_copy(shared);
  auto& copies = running->copies();
  if (copies.empty()) copies.emplace_back();
  Copy copy{shared, {}};
  if (present) std::memcpy(copy.bytes.data(), global, 16);
  copies.back().push_back(copy);
}

void commit_copies() {
  const Hidden hidden;
  auto& copies = running->copies();
  if (copies.empty()) copies.emplace_back();
  copies.emplace_back();
}

void wait_copies(int pending) {
  const Hidden hidden;
  auto& copies = running->copies();
  while (!copies.empty() && static_cast<int>(copies.size()) - 1 > pending) {
    for (const Copy& copy : copies.front()) {
      std::memcpy(copy.to, copy.bytes.data(), 16);
      const Shown shown;
      writes(copy.to, 16);
    }
    running->async_proxy().written(here().thread);
    copies.erase(copies.begin());
  }
  if (copies.size() == 1 && copies[0].empty()) copies.clear();
}

namespace {
float bf16_half(std::uint32_t pair, std::size_t half) {
  const std::uint32_t bits = (half ? pair >> 16 : pair & 0xffffu) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
}  // namespace

void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const Hidden hidden;
  struct Fragment {
    std::uint32_t a[4], b[2];
  };
  const Fragment mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const Slots& all = exchange("mma", &mine, sizeof mine);
  const std::size_t lane = here().thread % 32;
  float x[2][16], y[2][16];  // two rows of A, two columns of B
  for (std::size_t j = 0; j < 2; ++j)
    for (std::size_t k = 0; k < 16; k += 2) {
      const auto of_row = slot<Fragment>(all, lane / 4 * 4 + k % 8 / 2), of_column = slot<Fragment>(all, (lane % 4 * 2 + j) * 4 + k % 8 / 2);
      for (std::size_t half = 0; half < 2; ++half) {
        x[j][k + half] = bf16_half(of_row.a[j + k / 8 * 2], half);
        y[j][k + half] = bf16_half(of_column.b[k / 8], half);
      }
    }
  for (std::size_t i = 0; i < 4; ++i) {
    float sum = d[i];
    for (std::size_t k = 0; k < 16; ++k) sum += x[i / 2][k] * y[i % 2][k];
    d[i] = sum;
  }
}

void load_matrices(std::uint32_t (&r)[4], const void* row, bool transposed) {
  reads(row, 16);  // the lane that names a row stands for those that receive it
  const Hidden hidden;
  if (reinterpret_cast<std::uintptr_t>(row) % 16)
    fail("emulator: thread {}: load_matrices from an address that is not a multiple of 16", here().thread);
  const auto rows = exchange_as<const void*>(transposed ? "load_matrices_transposed" : "load_matrices", row);
  const std::size_t lane = here().thread % 32;
  const auto element = [&](std::size_t matrix, std::size_t i, std::size_t j) -> std::uint32_t {
    std::uint16_t x;
    std::memcpy(&x, static_cast<const char*>(rows[matrix * 8 + i]) + 2 * j, 2);
    return x;
  };
  for (std::size_t m = 0; m < 4; ++m) {
    const std::size_t i = lane / 4, j = lane % 4 * 2;
    r[m] = transposed ? element(m, j, i) | element(m, j + 1, i) << 16 : element(m, i, j) | element(m, i, j + 1) << 16;
  }
}

void check_launch(std::array<unsigned, 3> grid, unsigned threads, std::size_t shared, std::size_t argument_bytes) {
  if (threads == 0 || threads % 32 || threads > 1024)
    fail("emulator: a block of {} threads; it must be a multiple of 32 up to 1024", threads);
  if (grid[0] > 0x7fffffffu || grid[1] > played.grid_y || grid[2] > 65535)
    fail("emulator: a grid of ({}, {}, {}) blocks; the device allows (2147483647, {}, 65535)", grid[0], grid[1], grid[2], played.grid_y);
  if (shared > played.block_shared)
    fail("emulator: {} bytes of shared memory; a block has {} KiB", shared, played.block_shared >> 10);
  if (argument_bytes > 4096) fail("emulator: {} bytes of arguments; a launch takes 4096", argument_bytes);
}

void run_grid(std::array<unsigned, 3> grid, unsigned threads, std::size_t shared, const std::function<void()>& kernel) {
  static thread_local std::unique_ptr<Block> block;
  if (!block) block = std::make_unique<Block>();
  if (running) fail("emulator: a kernel starts a kernel");
  const std::unique_ptr<char, void (*)(void*)> memory(
      static_cast<char*>(std::aligned_alloc(64, (shared + guard_bytes + 63) / 64 * 64)), std::free);
  running = block.get();
  struct Reset {
    ~Reset() { running = nullptr; }
  } reset;
  Here& at = block->here_;
  at.grid = grid, at.threads = threads, at.shared = memory.get();
  unsigned number = 0;
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0]; ++x, ++number) {
        at.block = {x, y, z};
        std::memset(memory.get(), 0xff, shared);  // NaN in every floating type
        std::memset(memory.get() + shared, 0x5a, guard_bytes);
        block->run(kernel, shared, (number % 2 == 1) != turned_order);
        for (std::size_t i = 0; i < guard_bytes; ++i)
          if (memory.get()[shared + i] != 0x5a)
            fail("emulator: block ({}, {}, {}) wrote past its {} bytes of shared memory", x, y, z, shared);
      }
}

}  // namespace norma::cuda::emulator

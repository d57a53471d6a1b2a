// Kernels whose accesses are known by construction. The line before each says what it does through the word of its
// parameters at an offset in bytes: W writes, R reads, M may write (the address is one of several), - nothing.
#define K extern "C" __global__ void
typedef unsigned long long u64;
typedef unsigned char u8;
struct Two { float* out; const float* in; };
struct Mixed { int n; float* out; double scale; const float* in; };
struct Four { float* p[4]; };
struct Nested { Two a; int n; Two b; };
struct Array { float* data; long size; long shape[2]; long strides[2]; };
#define I (blockIdx.x * blockDim.x + threadIdx.x)

//! 0:W
K fill(float* a, int n) { if (I < n) a[I] = 1; }
//! 0:W 8:R
K copy(float* a, const float* b) { a[I] = b[I]; }
//! 0:W 8:R
K copy_non_const(float* a, float* b) { a[I] = b[I]; }
//! 0:W 8:R
K copy_restrict(float* __restrict__ a, const float* __restrict__ b) { a[I] = b[I]; }
//! 0:W
K increment(float* a) { a[I] += 1; }
//! 0:R 8:R 16:W
K add(const float* a, const float* b, float* c, int n) { if (I < n) c[I] = a[I] + b[I]; }
//! 0:W 8:R
K copy_bytes(u8* a, const u8* b, long n) { if (I < n) a[I + n] = b[I]; }
//! 0:W 8:R
K copy_bytes_32(u8* a, const u8* b, int n) { a[n + (int)I] = b[I]; }
//! 0:W 8:R
K copy_doubles(double* a, const double* b, long n) { for (long i = I; i < n; i += 1000) a[i] = b[i]; }
//! 0:W 8:R
K vector_copy(float4* a, const float4* b) { a[I] = b[I]; }
//! 0:W 8:R
K vector_copy_2(double2* a, const double2* b) { a[I] = b[I]; }
//! 0:W 8:R
K halves(short* a, const short* b) { a[I] = b[I] * 2; }
//! 0:W 8:R
K grid_stride(float* a, const float* b, int n) { for (int i = I; i < n; i += gridDim.x * blockDim.x) a[i] = b[i] * 2; }
//! 0:W 8:R
K walking(float* a, const float* b, int n) { for (int i = 0; i < n; i++) *a++ = *b++; }
//! 0:W 8:R
K walking_down(float* a, const float* b, long n, long step) { a += n; b += n; while (n > 0) { *a = *b; a -= step; b -= step; n -= step; } }
//! 0:W 8:R 16:R
K gather(float* a, const float* b, const int* idx) { a[I] = b[idx[I]]; }
//! 0:W 8:R 16:R
K scatter(float* a, const float* b, const int* idx) { a[idx[I]] = b[I]; }
//! 0:W 8:R 16:R
K scatter_long(float* a, const float* b, const long* idx) { a[idx[I]] = b[I]; }
//! 0:W 8:R
K scatter_bytes(u8* a, const int* idx) { a[idx[I]] = 1; }
//! 0:W 8:R
K scatter_bytes_long(u8* a, const long* idx) { a[idx[I]] = 1; }
//! 0:W
K atomic_add(int* a) { atomicAdd(a, 1); }
//! 0:W 8:W
K atomic_result(int* a, int* b) { b[I] = atomicAdd(a, 1); }
//! 0:W
K atomic_cas(u64* a) { atomicCAS(a, 1ull, 2ull); }
//! 0:W 8:R
K atomic_float(float* a, const float* b) { atomicAdd(a + 3, b[I]); }
//! 0:W
K atomic_exchange(int* a, int v) { atomicExch(&a[I], v); }
//! 0:W 8:R
K histogram(int* a, const u8* b, int n) {
  __shared__ int s[256];
  s[threadIdx.x] = 0; __syncthreads();
  for (int i = I; i < n; i += 1000) atomicAdd(&s[b[i]], 1);
  __syncthreads(); atomicAdd(&a[threadIdx.x], s[threadIdx.x]); }
//! 0:W 8:R
K reduce_shared(float* a, const float* b) {
  extern __shared__ float s[];
  s[threadIdx.x] = b[I]; __syncthreads();
  for (int k = blockDim.x / 2; k; k /= 2) { if (threadIdx.x < k) s[threadIdx.x] += s[threadIdx.x + k]; __syncthreads(); }
  if (!threadIdx.x) a[blockIdx.x] = s[0]; }
//! 0:W 8:R
K reduce_shuffle(float* a, const float* b) {
  float v = b[I];
  for (int k = 16; k; k /= 2) v += __shfl_down_sync(~0u, v, k);
  if (!(threadIdx.x & 31)) atomicAdd(a, v); }
//! 0:W 8:R
K local_array(float* a, const float* b, int k) { float l[16]; for (int i = 0; i < 16; i++) l[i] = b[i]; a[I] = l[k & 15]; }
//! 0:R
K reads_only(const float* a, int n) { if (a[I] == 12345.f) __trap(); }
//! 0:- 8:W
K unused(float* a, float* b) { b[I] = 1; }
//! 0:W 8:R
K struct_of_two(Two t) { t.out[I] = t.in[I]; }
//! 8:W 24:R
K struct_mixed(Mixed m) { if (I < m.n) m.out[I] = m.in[I] * m.scale; }
//! 0:W 8:R 24:W 32:R
K struct_nested(Nested x) { x.a.out[I] = x.a.in[I]; x.b.out[I] = x.b.in[I] * x.n; }
//! 0:W 48:R
K struct_array(Array a, Array b) { a.data[I * a.strides[0]] = b.data[I * b.strides[0] + b.strides[1] * 3]; }
//! 0:W 8:R
K struct_bytes(u8* data, const u8* in, long n, long stride) { *(float*)(data + I * stride) = *(const float*)(in + I * stride + n); }
//! 0:M 8:M 16:M 24:M
K pointers_by_index(Four f, int k) { f.p[k][I] = 1; }
//! 0:R 8:R 16:R 24:R 32:W
K reads_by_index(Four f, float* out) { out[I] = f.p[blockIdx.x & 3][I]; }
//! 0:W 8:W 16:W 24:W
K pointers_unrolled(Four f) { for (int i = 0; i < 4; i++) f.p[i][I] = i; }
//! 0:M 8:M
K selects(float* a, float* b, int which) { (which ? a : b)[I] = 1; }
//! 0:M 8:M 16:M
K selects_of_three(float* a, float* b, float* c, int which) { (which == 1 ? a : which == 2 ? b : c)[I] = 1; }
//! 0:W 8:W
K branches(float* a, float* b, int which) { if (which) a[I] = 1; else b[2 * I] = 2; }
//! 0:W 8:R 16:R
K select_read(float* a, const float* b, const float* c, int which) { a[I] = (which ? b : c)[I]; }
//! 0:W 8:W
K swaps(float* a, float* b, int n) { for (int i = 0; i < n; i++) { float* t = a; a = b; b = t; a[I] += i; b[I] += 2; } }
//! 0:W 8:W
K ping_pong(float* a, float* b, int n) { for (int i = 0; i < n; i++) { float* t = a; a = b; b = t; a[I] = b[I + 1] + i; } }
//! 0:R 8:M
K table(float** t, float* a) { t[blockIdx.x][I] = 1; }
//! 0:R 8:W 16:M
K table_offset(float** t, float* a, float* b, long n) { t[1][I + n] = 1; a[I] = 2; }
//! 0:R 8:W
K table_read(float** t, float* a) { a[I] = t[blockIdx.x][I]; }
//! 0:R 8:M
K table_bytes(u8** t, u8* a, long n) { t[0][n] = 1; }
__device__ __noinline__ void put(float* p, int i, float v) { p[i] = v; }
__device__ __noinline__ float get(const float* p, int i) { return p[i]; }
__device__ __noinline__ float* moved(float* p, int i) { return p + i; }
//! 0:W 8:R
K calls(float* a, const float* b) { put(a, I, b[I]); }
//! 0:W 8:W
K calls_twice(float* a, float* b) { put(a, I, 1); put(b, I, 2); }
//! 0:W 8:R
K calls_read(float* a, const float* b) { a[I] = get(b, I) + get(b, I + 1); }
//! 0:W
K calls_moved(float* a) { *moved(a, I) = 1; }
__device__ __noinline__ int deep(int* a, int n) { if (n <= 0) return 0; a[n] = n; return deep(a, n - 1) + a[n]; }
//! 0:W
K recursive(int* a, int n) { a[0] = deep(a, n); }
typedef void (*Function)(float*, int);
__device__ __noinline__ void one(float* p, int i) { p[i] = 1; }
__device__ __noinline__ void two(float* p, int i) { p[i] = 2; }
__device__ Function chosen[2] = {one, two};
//! 0:M
K by_pointer(float* a, int n) { chosen[n & 1](a, I); }
//! 0:W 8:R
K divides(int* a, const int* b, int n) { a[I / n] = b[I % n]; }
//! 0:W 8:R
K divides_doubles(double* a, const double* b) { a[I] = sqrt(b[I]) / b[I + 1] + sin(b[I]); }
//! 0:W
K prints(int* a) { if (!a[I]) printf("%d\n", (int)I); a[I] = 1; }
__device__ float global_array[256];
__constant__ float constants[256];
//! 0:W
K module_variables(float* a) { global_array[threadIdx.x] = a[I]; a[I] = constants[threadIdx.x]; }
//! 0:R
K to_module_variable(const float* a) { global_array[threadIdx.x] = a[I]; }
//! 0:W 8:R
K shared_pointers(float* a, const float* b) {
  __shared__ float* s[2];
  if (!threadIdx.x) { s[0] = a; s[1] = (float*)b; }
  __syncthreads(); s[0][I] = s[1][I]; }
//! 0:M 8:M
K local_pointers(float* a, float* b, int k) { float* l[2] = {a, b}; l[k & 1][I] = 1; }
//! 0:W 8:W
K nullable(float* a, float* b, int k) { float* p = k ? b : nullptr; a[I] = 1; if (p) p[I] = 2; }
//! 0:W 8:R
K volatile_copy(volatile float* a, const volatile float* b) { a[I] = b[I]; }
//! 0:W 8:R
K streaming(float* a, const float* b) { __stcs(&a[I], __ldg(&b[I])); }
//! 0:W 8:R
K aligned_up(float* a, const float* b) { u64 p = ((u64)a + 127) & ~127ull; ((float*)p)[I] = b[I]; }
//! 0:W 8:R
K transpose(float* a, const float* b, int w, int h) {
  __shared__ float t[32][33];
  int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8) if (x < w && y + j < h) t[threadIdx.y + j][threadIdx.x] = b[(y + j) * w + x];
  __syncthreads();
  for (int j = 0; j < 32; j += 8) a[(blockIdx.x * 32 + threadIdx.y + j) * h + blockIdx.y * 32 + threadIdx.x] = t[threadIdx.x][threadIdx.y + j]; }
//! 0:R 8:R 16:W
K matmul(const float* a, const float* b, float* c, int n) {
  float v = 0; int r = blockIdx.y * 16 + threadIdx.y, k = blockIdx.x * 16 + threadIdx.x;
  for (int i = 0; i < n; i++) v += a[r * n + i] * b[i * n + k];
  c[r * n + k] = v; }
//! 0:R 8:W 16:W 24:R
K many(const float* a, float* b, float* c, const float* d, float x) { b[I] = a[I] * x; c[I] = d[I] + b[I + 1]; }
//! 0:W 8:R
K switched(float* a, const float* b, int k) {
  switch (k) { case 0: a[I] = b[1]; break; case 1: a[2 * I] = b[5]; break; case 2: a[3 * I] = b[I]; break; case 3: a[1] = sinf(b[I]); break;
    case 4: a[I] *= 5; break; case 5: a[0] = 7; break; case 6: atomicAdd(a, 1); break; default: a[9] = expf(b[2]); } }
//! 0:W 8:R
K opaque_asm(float* a, const float* b) { asm volatile("st.global.f32 [%0], %1;" :: "l"(a + I), "f"(b[I]) : "memory"); }
//! 0:W
K red_asm(float* a) { asm volatile("red.global.add.f32 [%0], %1;" :: "l"(a + I), "f"(1.f) : "memory"); }
//! 0:W 8:R
K block_of_pointers(float* const __restrict__ a, const float* b, int n) { float r[8]; for (int i = 0; i < 8; i++) r[i] = b[I + i * n]; for (int i = 0; i < 8; i++) a[I * 8 + i] = r[7 - i]; }
//! 0:W 8:R 16:W
K complex_loop(float* a, const int* next, float* visited, int start) { for (int i = start; i >= 0; i = next[i]) { a[i] += 1; visited[i] = 1; } }
//! 0:R 8:W
K pointer_chase(void** head, int* n) { int k = 0; for (void** p = head; p; p = (void**)*p) k++; *n = k; }
//! 0:W 8:R 16:W
K two_phases(float* a, const float* b, int* flag) { a[I] = b[I]; __threadfence(); if (atomicAdd(flag, 1) == gridDim.x - 1) a[0] += a[1]; }
struct Big { float* p[40]; int n; };
//! 0:R 16:W 312:R
K grid_constant(const __grid_constant__ Big b) { b.p[2][I] = b.p[39][I] + b.p[0][1]; }
//! 0:M 8:M 312:M
K grid_constant_chosen(const __grid_constant__ Big b) { b.p[b.n][I] = 1; }
#if __CUDA_ARCH__ >= 800
//! 0:W 8:R
K copies_async(float* a, const float* b) {
  __shared__ float s[256];
  unsigned to = (unsigned)__cvta_generic_to_shared(&s[threadIdx.x]);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(to), "l"(b + I) : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory"); __syncthreads();
  a[I] = s[255 - threadIdx.x]; }
#endif
#if __CUDA_ARCH__ >= 900
struct alignas(64) Descriptor { u64 opaque[16]; };
//! 0:W 8:R
K bulk(float* a, const float* b) {
  __shared__ alignas(128) float s[256]; __shared__ u64 bar;
  unsigned to = (unsigned)__cvta_generic_to_shared(s), m = (unsigned)__cvta_generic_to_shared(&bar);
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" :: "r"(to), "l"(b), "r"(1024), "r"(m) : "memory");
  __syncthreads();
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" :: "l"(a), "r"(to), "r"(1024) : "memory"); }
//! 0:R 128:W
K tensors(const __grid_constant__ Descriptor from, const __grid_constant__ Descriptor into) {
  __shared__ alignas(128) float s[256]; __shared__ u64 bar;
  unsigned to = (unsigned)__cvta_generic_to_shared(s), m = (unsigned)__cvta_generic_to_shared(&bar);
  asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2}], [%3];" :: "r"(to), "l"(&from), "r"(0), "r"(m) : "memory");
  __syncthreads();
  asm volatile("cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%0, {%1}], [%2];" :: "l"(&into), "r"(0), "r"(to) : "memory"); }
//! 0:W
K cluster_shared(float* a) {
  __shared__ float s[32]; unsigned p = (unsigned)__cvta_generic_to_shared(&s[threadIdx.x]), q;
  asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(q) : "r"(p));
  asm volatile("st.shared::cluster.f32 [%0], %1;" :: "r"(q), "f"(1.f) : "memory");
  __syncthreads(); a[I] = s[31 - threadIdx.x]; }
#endif

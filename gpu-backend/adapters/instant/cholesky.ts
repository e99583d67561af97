/** Solves symmetric positive definite systems. */

/** L [D, D] with L·Lᵀ = the matrix whose lower triangle is given, [D, D]. */
export function factorised(lower: Float64Array): Float64Array {
  const D = Math.sqrt(lower.length);
  const L = Float64Array.from(lower);
  for (let j = 0; j < D; j++) {
    for (let i = j; i < D; i++) {
      let sum = L[i * D + j];
      for (let k = 0; k < j; k++) sum -= L[i * D + k] * L[j * D + k];
      L[i * D + j] = i === j ? Math.sqrt(sum) : sum / L[j * D + j];
    }
  }
  return L;
}

/** x [D] with L·Lᵀ·x = `right` [D]. */
export function solved(L: Float64Array, right: Float64Array): Float64Array<ArrayBuffer> {
  const D = right.length;
  const x = Float64Array.from(right);
  for (let i = 0; i < D; i++) {
    for (let k = 0; k < i; k++) x[i] -= L[i * D + k] * x[k];
    x[i] /= L[i * D + i];
  }
  for (let i = D - 1; i >= 0; i--) {
    for (let k = i + 1; k < D; k++) x[i] -= L[k * D + i] * x[k];
    x[i] /= L[i * D + i];
  }
  return x;
}

/** Eigenvectors of a real symmetric matrix by cyclic Jacobi rotations (Golub & Van Loan, §8.5). */

export interface Eigen {
  /** Descending. */
  values: Float64Array;
  /** [n, n]: row i is the unit eigenvector of `values[i]`, its largest component positive. */
  vectors: Float64Array;
}

const maxSweeps = 60;
/** Of the largest diagonal element: where an off-diagonal one counts as zero. */
const relativeTolerance = 1e-15;

/** Decomposes `matrix` [n, n], row-major; only its symmetric part is meant to be there. Cost: about 10·n³. */
export function symmetricEigen(matrix: Float64Array, n: number): Eigen {
  const a = matrix.slice();
  const v = new Float64Array(n * n); // rows become eigenvectors
  for (let i = 0; i < n; i++) v[i * n + i] = 1;
  let largest = 0;
  for (let i = 0; i < n; i++) largest = Math.max(largest, Math.abs(a[i * n + i]));
  for (let sweep = 0; sweep < maxSweeps; sweep++) {
    let rotated = false;
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) {
        const off = a[p * n + q];
        if (Math.abs(off) <= relativeTolerance * largest) continue;
        rotated = true;
        const theta = (a[q * n + q] - a[p * n + p]) / (2 * off);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        rotateColumns(a, n, p, q, c, t * c);
        rotateRows(a, n, p, q, c, t * c);
        rotateRows(v, n, p, q, c, t * c);
      }
    }
    if (!rotated) break;
  }
  return sorted(a, v, n);
}

function rotateRows(m: Float64Array, n: number, p: number, q: number, c: number, s: number): void {
  for (let k = 0; k < n; k++) {
    const x = m[p * n + k];
    const y = m[q * n + k];
    m[p * n + k] = c * x - s * y;
    m[q * n + k] = s * x + c * y;
  }
}

function rotateColumns(m: Float64Array, n: number, p: number, q: number, c: number, s: number): void {
  for (let k = 0; k < n; k++) {
    const x = m[k * n + p];
    const y = m[k * n + q];
    m[k * n + p] = c * x - s * y;
    m[k * n + q] = s * x + c * y;
  }
}

function sorted(a: Float64Array, v: Float64Array, n: number): Eigen {
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => a[j * n + j] - a[i * n + i] || i - j);
  const values = Float64Array.from(order, (i) => a[i * n + i]);
  const vectors = new Float64Array(n * n);
  for (const [row, from] of order.entries()) {
    const vector = v.subarray(from * n, (from + 1) * n);
    let largest = 0;
    for (let k = 1; k < n; k++) if (Math.abs(vector[k]) > Math.abs(vector[largest])) largest = k;
    const sign = vector[largest] < 0 ? -1 : 1;
    for (let k = 0; k < n; k++) vectors[row * n + k] = sign * vector[k];
  }
  return { values, vectors };
}

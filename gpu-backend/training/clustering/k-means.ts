/** Spherical k-means: points have length 1 and belong to the centroid with the largest dot product. */
import { Random, streams } from "../random.ts";

/** Number of independent starts. The best result is kept. */
const starts = 8;
const maxRounds = 50;

/** `points` are unit rows [n, P]. An empty cluster keeps its centroid. Throws an Error for fewer points than clusters. */
export function kMeans(points: Float32Array, dimensions: number, options: { clusters: number; seed: number }) {
  const n = points.length / dimensions;
  if (n < options.clusters) throw new Error(`${options.clusters} clusters need as many windows, there are ${n}`);
  const random = new Random(options.seed, streams.kMeans);
  let best: ReturnType<typeof refine> | null = null;
  for (let i = 0; i < starts; i++) {
    const start = spreadStart(points, dimensions, options.clusters, random);
    const found = refine(points, dimensions, start);
    if (!best || found.meanSimilarity > best.meanSimilarity) best = found;
  }
  return best!;
}

/** k-means++ (Arthur & Vassilvitskii 2007): draws points as centroids, in proportion to squared distance from the nearest centroid. */
function spreadStart(points: Float32Array, P: number, K: number, random: Random): Float32Array {
  const n = points.length / P;
  const centroids = new Float32Array(K * P);
  const distances = new Float64Array(n).fill(Number.POSITIVE_INFINITY); // squared, 2 − 2·similarity
  let chosen = random.integer(n);
  for (let k = 0; k < K; k++) {
    centroids.set(points.subarray(chosen * P, (chosen + 1) * P), k * P);
    let total = 0;
    for (let i = 0; i < n; i++) {
      distances[i] = Math.min(distances[i], Math.max(0, 2 - 2 * dot(points, i, centroids, k, P)));
      total += distances[i];
    }
    let left = random.uniform() * total;
    for (chosen = 0; chosen < n - 1; chosen++) {
      left -= distances[chosen];
      if (left < 0) break;
    }
  }
  return centroids;
}

/** Lloyd's algorithm. Changes and returns `centroids` [K, P]. */
function refine(points: Float32Array, P: number, centroids: Float32Array) {
  const memberOf = new Int32Array(points.length / P).fill(-1);
  for (let round = 0; ; round++) {
    let moved = 0;
    let sum = 0;
    for (let i = 0; i < memberOf.length; i++) {
      let nearest = 0;
      let highest = Number.NEGATIVE_INFINITY;
      for (let k = 0; k < centroids.length / P; k++) {
        const similarity = dot(points, i, centroids, k, P);
        if (similarity > highest) {
          highest = similarity;
          nearest = k;
        }
      }
      if (memberOf[i] !== nearest) moved++;
      memberOf[i] = nearest;
      sum += highest;
    }
    if (moved === 0 || round === maxRounds) return { centroids, memberOf, meanSimilarity: sum / memberOf.length };
    moveToMeans(points, P, centroids, memberOf);
  }
}

function moveToMeans(points: Float32Array, P: number, centroids: Float32Array, memberOf: Int32Array): void {
  const sums = new Float64Array(centroids.length);
  for (let i = 0; i < memberOf.length; i++) {
    for (let p = 0; p < P; p++) sums[memberOf[i] * P + p] += points[i * P + p];
  }
  for (let k = 0; k < centroids.length / P; k++) {
    const sum = sums.subarray(k * P, (k + 1) * P);
    const length = Math.hypot(...sum);
    if (length > 0) for (let p = 0; p < P; p++) centroids[k * P + p] = sum[p] / length;
  }
}

/** Scales to length 1. Zeros stay zeros. */
export function unitVector(sum: Float32Array | Float64Array): Float32Array {
  const length = Math.hypot(...sum);
  return Float32Array.from(sum, (x) => (length > 0 ? x / length : 0));
}

function dot(a: Float32Array, i: number, b: Float32Array, j: number, P: number): number {
  let sum = 0;
  for (let p = 0; p < P; p++) sum += a[i * P + p] * b[j * P + p];
  return sum;
}

/** The smallest power of two that is at least `wanted` and `smallest`. `smallest` must be a power of two. */
export function powerOfTwo(wanted: number, smallest: number): number {
  let size = smallest;
  while (size < wanted) size *= 2;
  return size;
}

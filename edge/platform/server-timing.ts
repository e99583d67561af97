/**
 * The value of a Server-Timing header: `{ tokenize: 1.5 }` → `tokenize;dur=1.50`, durations in milliseconds.
 * A Worker's clock stands still between I/O operations, so pure computing shows as 0.
 */
export function serverTiming(phases: object): string {
  return Object.entries(phases)
    .map(([phase, ms]) => `${phase};dur=${Number(ms).toFixed(2)}`)
    .join(", ");
}

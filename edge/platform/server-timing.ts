/** A Server-Timing value: `{ tokenize: 1.5 }` ms → `tokenize;dur=1.50`. A Worker's clock does not count pure computing. */
export function serverTiming(phases: object): string {
  return Object.entries(phases)
    .map(([phase, ms]) => `${phase};dur=${Number(ms).toFixed(2)}`)
    .join(", ");
}

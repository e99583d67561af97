/** A Server-Timing value: `{ tokenize: 1.5 }` → `tokenize;dur=1.50`, milliseconds. A Worker's clock stands still while it computes: that shows as 0. */
export function serverTiming(phases: object): string {
  return Object.entries(phases)
    .map(([phase, ms]) => `${phase};dur=${Number(ms).toFixed(2)}`)
    .join(", ");
}

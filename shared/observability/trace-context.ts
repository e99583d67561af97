/** W3C Trace Context, version 00: the `traceparent` header that continues a caller's trace. Pure. */

const traceparentPattern = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Returns null for anything but a traceparent of version 00. `spanId`: id of the parent span. */
export function parseTraceparent(header: string | null | undefined) {
  if (!header || !traceparentPattern.test(header)) return null;
  const [, traceId, spanId, flags] = header.split("-");
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

/** The trace's id decides, so that all services sample the same traces. */
export function isSampled(traceId: string, ratio: number): boolean {
  return Number.parseInt(traceId.slice(-8), 16) < ratio * 2 ** 32;
}

/** W3C Trace Context, version 00: the `traceparent` header that continues a caller's trace. Pure. */

export interface TraceContext {
  /** 32 hex digits, the same all the way. */
  traceId: string;
  /** 16 hex digits: of the span that others are children of. */
  spanId: string;
  /** Whether its spans are wanted. */
  sampled: boolean;
}

const traceparentPattern = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Null for anything that is not a traceparent of version 00: then a trace of its own begins. */
export function parseTraceparent(header: string | null | undefined): TraceContext | null {
  if (!header || !traceparentPattern.test(header)) return null;
  const [, traceId, spanId, flags] = header.split("-");
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

/** Whether a trace is among the `ratio` that is kept: by its id, so that everybody who is asked says the same. */
export function isSampled(traceId: string, ratio: number): boolean {
  return Number.parseInt(traceId.slice(-8), 16) < ratio * 2 ** 32;
}

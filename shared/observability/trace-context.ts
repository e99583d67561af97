/** W3C Trace Context, version 00: the `traceparent` header that continues a caller's trace. Pure. */

interface TraceContext {
  /** 32 hex digits, the same for all spans of a trace. */
  traceId: string;
  /** 16 hex digits, of the parent span. */
  spanId: string;
  /** Whether spans of the trace are recorded. */
  sampled: boolean;
}

const traceparentPattern = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** null for anything but a traceparent of version 00; the caller then begins a new trace. */
export function parseTraceparent(header: string | null | undefined): TraceContext | null {
  if (!header || !traceparentPattern.test(header)) return null;
  const [, traceId, spanId, flags] = header.split("-");
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

/** True for a share `ratio` of all traces. Decided by the trace's id, so that every service decides alike. */
export function isSampled(traceId: string, ratio: number): boolean {
  return Number.parseInt(traceId.slice(-8), 16) < ratio * 2 ** 32;
}

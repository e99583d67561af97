/**
 * Exports spans of traced sequences: one span each, with its phases below it. Times come from the last frame; spans contain no
 * text and no token ids.
 */
import type { BatchRequest, Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { type Attributes, type OtlpTarget, type Span, tracesBody } from "../../shared/observability/otlp.ts";
import { parseTraceparent, type TraceContext } from "../../shared/observability/trace-context.ts";
import { centroidLabel, type Log } from "./log.ts";

const service = "chameleon-backend";
/** Delay from the first span to the export of all that came since. */
const delayMs = 1000;
/** Further spans are dropped, so that a collector that is down does not fill the memory. */
const maxSpans = 10_000;

export interface TracerParts {
  target: OtlpTarget;
  fetch(url: string, init: RequestInit): Promise<Response>;
  /** 16 random hex digits. */
  newSpanId(): string;
  /** Milliseconds since 1970, fractions counted. */
  epochMs(): number;
  log: Log;
}

export class Tracer {
  readonly #parts: TracerParts;
  #spans: Span[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(parts: TracerParts) {
    this.#parts = parts;
  }

  /** A function to be called with each frame of the micro-batch; null if none of its sequences is traced. */
  watch(batch: BatchRequest): ((frame: Frame) => void) | null {
    const open = new Map<string, { request: SequenceRequest; parent: TraceContext; firstTokenMs: number | null }>();
    for (const request of batch.sequences) {
      const parent = parseTraceparent(request.traceparent);
      if (parent?.sampled) open.set(request.id, { request, parent, firstTokenMs: null });
    }
    if (open.size === 0) return null;
    const startMs = this.#parts.epochMs();
    return (frame) => {
      const one = open.get(frame.id);
      if (!one) return;
      if (frame.type === "token") one.firstTokenMs ??= this.#parts.epochMs();
      if (frame.type !== "done" && frame.type !== "error") return;
      open.delete(frame.id);
      this.#add(this.#spansOf(batch, one.request, one.parent, startMs, one.firstTokenMs, frame));
    };
  }

  /** Exports all spans. Never rejects. */
  async flush(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    const spans = this.#spans;
    this.#spans = [];
    if (spans.length === 0) return;
    const { target, log } = this.#parts;
    try {
      const response = await this.#parts.fetch(`${target.endpoint}/v1/traces`, {
        method: "POST",
        headers: { ...target.headers, "content-type": "application/json" },
        body: tracesBody(service, spans),
        signal: AbortSignal.timeout(5000),
      });
      await response.body?.cancel();
      if (!response.ok) throw new Error(`answered ${response.status}`);
    } catch (error) {
      log("warn", "export_failed", { spans: spans.length, cause: String(error) });
    }
  }

  #add(spans: Span[]): void {
    if (this.#spans.length + spans.length > maxSpans) return;
    this.#spans.push(...spans);
    this.#timer ??= setTimeout(() => void this.flush(), delayMs).unref();
  }

  #spansOf(
    batch: BatchRequest,
    request: SequenceRequest,
    parent: TraceContext,
    startMs: number,
    firstTokenMs: number | null,
    last: Frame & { type: "done" | "error" },
  ): Span[] {
    const { newSpanId, epochMs } = this.#parts;
    const endMs = epochMs();
    const { traceId } = parent;
    const spanId = newSpanId();
    const attributes: Attributes = {
      "chameleon.sequence": request.id,
      "chameleon.tenant": request.tenant,
      "chameleon.centroid": centroidLabel(batch, request),
      "chameleon.batch.sequences": batch.sequences.length,
      "chameleon.continued_tokens": request.continuedIds.length,
      "gen_ai.usage.input_tokens": request.promptIds.length,
    };
    if (firstTokenMs !== null) attributes["chameleon.first_token_ms"] = firstTokenMs - startMs;
    const error = last.type === "error" ? last.kind : null;
    const sequence: Span = {
      ...{ traceId, spanId, parentSpanId: parent.spanId, name: "sequence", kind: "server" },
      ...{ startMs, endMs, attributes, error },
    };
    if (last.type === "error") return [sequence];
    attributes["gen_ai.usage.output_tokens"] = last.completionTokens;
    attributes["gen_ai.response.finish_reasons"] = last.finishReason;
    if (last.adapter) {
      attributes["chameleon.adapter.hash"] = last.adapter.hash;
      attributes["chameleon.adapter.cache"] = last.adapter.cache;
    }
    if (last.reusedTokens !== undefined) attributes["chameleon.reused_tokens"] = last.reusedTokens;
    // The phases follow each other and end with the last token, which is now.
    const { adapterMs, queueMs, prefillMs, decodeMs } = last.timings;
    const phases = Object.entries({ adapter: adapterMs, queue: queueMs, prefill: prefillMs, decode: decodeMs });
    let atMs = endMs - phases.reduce((total, [, ms]) => total + ms, 0);
    return [
      sequence,
      ...phases.map(([name, ms]): Span => {
        const startedMs = atMs;
        atMs += ms;
        return {
          ...{ traceId, spanId: newSpanId(), parentSpanId: spanId, name, kind: "internal" },
          ...{ startMs: startedMs, endMs: atMs, attributes: {}, error: null },
        };
      }),
    ];
  }
}

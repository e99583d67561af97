/** One request's trace: what is known of it on the way, and how it travels on. Not here: where it begins and ends. */
import type { Attributes, Span } from "../../shared/observability/otlp.ts";
import { formatTraceparent, type TraceContext } from "../../shared/observability/trace-context.ts";

export interface TraceDependencies {
  newId(): string;
  now(): number;
  /** Share of the traces that begin here and are reported; a caller's own decision goes first. 0 reports none. */
  sampleRatio: number;
  /** Takes the request's span; must not throw. */
  ended(span: Span): void;
  logRequest(fields: Attributes): void;
}

/** Where a route notes the time that assignment took. */
export const assignMsField = "chameleon.assign_ms";
/** Milliseconds this request was delayed by per-key pacing; absent if it was not. */
export const pacedMsField = "chameleon.paced_ms";

/** The platform's data centre that received the request, as `FRA`. */
export const coloField = "chameleon.colo";

/** What a route may say about its request. */
export class RequestTrace {
  readonly context: TraceContext;
  /** Of the request's span: ids, counts and names, never text. */
  readonly attributes: Attributes = {};

  #end: PromiseWithResolvers<string | null> | null = null;

  constructor(context: TraceContext) {
    this.context = context;
  }

  /** Where the answer goes on behind its head: resolves when it ends, to why it broke off or to null. */
  get end(): Promise<string | null> | null {
    return this.#end?.promise ?? null;
  }

  /** Says that the answer goes on behind its head. Whoever says so tells its end, once; further calls change nothing. */
  goesOn(): (error: string | null) => void {
    this.#end = Promise.withResolvers();
    return this.#end.resolve;
  }

  note(attributes: Attributes): void {
    Object.assign(this.attributes, attributes);
  }

  /** As it travels on, where it is kept. */
  get traceparent(): string | null {
    return this.context.sampled ? formatTraceparent(this.context) : null;
  }
}

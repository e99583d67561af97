/** Makes one answer of the frames of its sequences, whole or as a stream of events. Not here: where frames come from. */
import type { BatchRequest, Frame } from "../../shared/contracts/inference.ts";
import { sseDone, sseEvent } from "../../shared/contracts/sse.ts";
import { envelopeOf, ServiceError, statusOf, toServiceError } from "../../shared/errors.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import type { Receiver, Submission } from "../batching/relay.ts";
import { serverTiming } from "../middleware/server-timing.ts";
import type { Admission } from "../tenants/admission.ts";
import { TokenCount } from "../tenants/token-count.ts";
import { Choice } from "./choice.ts";
import type { EventStream, EventStreams } from "./event-stream.ts";
import { gathered } from "./gathering.ts";
import { forms, type Order } from "./order.ts";
import { batchesOf } from "./plan.ts";
import { ResponseBuilder } from "./response.ts";

export interface AnsweringParts {
  tokenizer: Tokenizer;
  /**
   * Sends a batch on its way to its place; `receiver` gets the frames of its sequences, of each in order, to its last.
   * Throws the ServiceError of one that is refused at once.
   */
  submit(batch: BatchRequest, place: number, receiver: Receiver): Submission;
  /** Of the object that answers. */
  streams: EventStreams;
  admission: Admission;
  /** The client's. */
  signal: AbortSignal;
  /** Receives failures that are ours, where the client has a part of its answer already. */
  log(error: ServiceError): void;
}

/**
 * Resolves to the whole answer, or to a stream once backends have accepted all of it, its first part is there, or a
 * heartbeat has passed: so a refusal has a status of its own, whoever waits in a queue has headers meanwhile, and a first
 * token finds them written. Rejects with the ServiceError that ends it before. Either way the admission is settled when
 * it ends.
 */
export function answerOrder(order: Order, parts: AnsweringParts): Promise<Response> {
  return new Answering(order, parts).response;
}

class Answering {
  readonly #order: Order;
  readonly #parts: AnsweringParts;
  readonly #choices: Map<string, Choice>;
  readonly #builder: ResponseBuilder<object, object>;
  readonly #count: TokenCount;
  readonly #stream: EventStream | null;
  readonly #submissions: Submission[] = [];
  readonly #response = Promise.withResolvers<Response>();
  #openChoices: number;
  #unaccepted: number;
  #hasBegun = false;
  #hasEnded = false;

  constructor(order: Order, parts: AnsweringParts) {
    const { form, envelope, plan, options, stream, heartbeatMs } = order;
    this.#order = order;
    this.#parts = parts;
    this.#choices = new Map(plan.choices.map((one) => [one.sequence.id, new Choice(one, parts.tokenizer, options)]));
    this.#builder = new ResponseBuilder<object, object>(forms[form], envelope, plan, options.compare);
    this.#count = new TokenCount(plan.choices);
    this.#openChoices = plan.choices.length;
    this.#unaccepted = plan.choices.length;
    const { tenant } = order.admitted;
    const openStreams = parts.streams.openOf(tenant);
    this.#stream = stream
      ? parts.streams.open(tenant, heartbeatMs, {
          silent: () => this.#begin(),
          ended: (isGone) => isGone && this.#leave(),
        })
      : null;
    parts.signal.addEventListener("abort", () => this.#leave());
    if (parts.signal.aborted) this.#leave();
    try {
      const receiver: Receiver = {
        accepted: () => this.#accept(),
        receive: (frames) => this.#receive(frames),
      };
      for (const [i, batch] of batchesOf(plan).entries()) {
        if (this.#hasEnded) return;
        const submission = parts.submit(gathered(batch, stream, openStreams), order.places[i], receiver);
        if (this.#hasEnded) submission.cancel();
        else this.#submissions.push(submission);
      }
    } catch (thrown) {
      this.#fail(thrown);
    }
  }

  get response(): Promise<Response> {
    return this.#response.promise;
  }

  /** Who set a deadline is told with a status that it passed, so waits for more than this. */
  #accept(): void {
    const isDue = this.#order.plan.choices[0].sequence.deadlineMs !== undefined;
    if (--this.#unaccepted === 0 && this.#stream && !isDue) this.#begin();
  }

  #receive(frames: readonly Frame[]): void {
    if (this.#hasEnded) return;
    let events = "";
    try {
      this.#parts.admission.renew();
      for (const frame of frames) events += this.#take(frame);
      if (this.#openChoices === 0) this.#complete(events);
      else this.#write(events);
    } catch (thrown) {
      // What came before it is the client's.
      if (events !== "") this.#write(events);
      this.#fail(thrown);
    }
  }

  /** The events that a frame makes; none where the answer is no stream. Throws the ServiceError of an error frame. */
  #take(frame: Frame): string {
    const part = this.#choices.get(frame.id)!.push(frame);
    this.#count.add(part);
    this.#builder.add(part);
    if (part.done) this.#openChoices--;
    if (!this.#stream) return "";
    const { includeUsage } = this.#order;
    const chunk = this.#builder.chunk(part);
    const event = chunk ? sseEvent(JSON.stringify(includeUsage ? { ...chunk, usage: null } : chunk)) : "";
    if (this.#openChoices > 0) return event;
    return event + (includeUsage ? sseEvent(JSON.stringify(this.#builder.usageChunk())) : "") + sseDone;
  }

  #write(events: string): void {
    if (!this.#stream) return;
    if (events !== "") this.#stream.write(events);
    this.#begin();
  }

  #complete(events: string): void {
    if (this.#stream) {
      this.#stream.close(events);
      this.#begin();
    } else {
      const headers = { "server-timing": serverTiming(this.#builder.timings) };
      this.#response.resolve(Response.json(this.#builder.response(), { headers }));
    }
    this.#end(false);
  }

  #fail(thrown: unknown): void {
    if (this.#hasEnded) return;
    const error = toServiceError(thrown);
    this.#end(false);
    if (!this.#hasBegun) {
      this.#refuse(error);
      return;
    }
    if (statusOf(error.kind) >= 500) this.#parts.log(error);
    this.#stream?.close(sseEvent(JSON.stringify(envelopeOf(error))) + sseDone);
  }

  /** The client went away. */
  #leave(): void {
    if (this.#hasEnded) return;
    this.#end(true);
    if (!this.#hasBegun) this.#refuse(new ServiceError("cancelled", "The client went away."));
    // What nobody reads must not stay behind in the stream, nor its timer.
    else this.#stream?.discard();
  }

  #refuse(error: ServiceError): void {
    this.#stream?.discard();
    this.#response.reject(error);
  }

  #begin(): void {
    if (this.#hasBegun || this.#hasEnded) return;
    this.#hasBegun = true;
    const { tokenizeMs, assignMs } = this.#order.plan;
    const headers = {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-store",
      "server-timing": serverTiming({ tokenize: tokenizeMs, assign: assignMs }),
    };
    this.#response.resolve(new Response(this.#stream!.body, { headers }));
  }

  #end(isGone: boolean): void {
    this.#hasEnded = true;
    if (this.#openChoices > 0) for (const submission of this.#submissions) submission.cancel();
    this.#parts.admission.settle(this.#count.consumed(this.#order.envelope.model, isGone));
  }
}

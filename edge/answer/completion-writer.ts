/** Writes the response from the sequences' frames, and settles the request's admission once. Not here: byte limits (answer-body.ts). */
import type { Frame } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { sseComment, sseDone } from "../../shared/contracts/sse.ts";
import { ServiceError, statusOf, toServiceError } from "../../shared/errors.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import type { Dispatcher } from "../dispatch/dispatcher.ts";
import { batchesOf, type Plan, withGathering } from "../plan/plan.ts";
import { serverTiming } from "../platform/server-timing.ts";
import type { Admission } from "../tenants/admission.ts";
import type { AdmittedRequest, Consumption } from "../tenants/consumption.ts";
import { type AnswerBodies, type AnswerBody, joinedBytes, shortAnswerBytes, unreadAheadBytes } from "./answer-body.ts";
import type { EndReason } from "./answer-end.ts";
import { Choice, type ChoiceOptions, echoedPrompts } from "./choice.ts";
import { forms } from "./forms.ts";
import { bytesOf, PromptScores } from "./prompt-scores.ts";
import { type Envelope, eventText, ResponseBuilder } from "./response.ts";
import { RepeatedEvents, type StreamCursor, streamStart } from "./sent-events.ts";
import { TokenCount } from "./token-count.ts";

/** Last character of a non-streamed answer that failed after its first byte. Valid JSON never contains it. */
export const failedMark = "\0";

export interface AnswerRequest {
  form: keyof typeof forms;
  envelope: Envelope;
  plan: Plan;
  options: ChoiceOptions;
  stream: boolean;
  includeUsage: boolean;
  heartbeatMs: number;
  admitted: AdmittedRequest;
  resumeFrom?: StreamCursor | undefined;
  /** Events have ids from which the client can resume. Only for streams of one choice. */
  withEventIds?: boolean | undefined;
}

export interface CompletionWriterParts {
  tokenizer: Tokenizer;
  /** Frames of one sequence arrive in order. */
  submit: Dispatcher["submit"];
  bodies: AnswerBodies;
  admission: Admission;
  signal: AbortSignal;
  now(): number;
  log(error: ServiceError): void;
}

/**
 * Resolves to the response when it begins; its body may continue. Rejects with a ServiceError if the answer fails before.
 * A stream begins when backends have accepted all sequences, when it has an event, or after one heartbeat interval.
 * A non-streamed answer has a `content-length` if it completes within one heartbeat interval of its first token. Otherwise it begins with
 * white space, because only a write detects a disconnect.
 */
export function writeCompletion(request: AnswerRequest, parts: CompletionWriterParts): Promise<Response> {
  return new CompletionWriter(request, parts).response;
}

class CompletionWriter {
  readonly #request: AnswerRequest;
  readonly #parts: CompletionWriterParts;
  readonly #choices: Map<string, Choice>;
  readonly #promptScores: PromptScores;
  readonly #builder: ResponseBuilder;
  readonly #count: TokenCount;
  readonly #body: AnswerBody;
  readonly #cancels: (() => void)[] = [];
  readonly #response = Promise.withResolvers<Response>();
  readonly response = this.#response.promise;
  /** Skips events that the client has received, and makes event ids. null: the request needs neither. */
  readonly #repeated: RepeatedEvents | null;
  #openChoices: number;
  #unaccepted: number;
  readonly #pending: Frame[] = [];
  #pendingBytes = 0;
  readonly #startedMs: number;
  #firstFrameMs: number | null = null;
  #hasBegun = false;

  constructor(request: AnswerRequest, parts: CompletionWriterParts) {
    const { form, envelope, plan, options, stream, heartbeatMs } = request;
    this.#request = request;
    this.#parts = parts;
    this.#startedMs = parts.now();
    const { tokenizer } = parts;
    const echoed = options.echo ? echoedPrompts(plan.choices, tokenizer) : null;
    // A chat answer reports the prompt's logprobs once, in its first choice.
    const others = form === "chat" ? { ...options, promptLogprobs: null } : options;
    this.#choices = new Map(
      plan.choices.map((one, i) => [
        one.sequence.id,
        new Choice(one, tokenizer, i === 0 ? options : others, echoed?.get(one.prompt)),
      ]),
    );
    this.#promptScores = new PromptScores(plan.choices);
    this.#builder = new ResponseBuilder(forms[form], envelope, plan, { ...options, isWhole: !stream });
    this.#count = new TokenCount(envelope.model, plan.choices);
    const cursor = request.resumeFrom ?? (request.withEventIds ? streamStart(plan.choices.length) : null);
    this.#repeated = cursor && new RepeatedEvents(cursor);
    this.#openChoices = plan.choices.length;
    this.#unaccepted = plan.choices.length;
    const { tenant } = request.admitted;
    const openStreams = parts.bodies.streamsOf(tenant);
    this.#body = parts.bodies.open(
      {
        tenant,
        maximumBytes: stream ? limits.unreadBytes : limits.wholeAnswerBytes,
        heartbeat: stream ? { text: sseComment("hb"), everyMs: heartbeatMs } : null,
      },
      {
        ticked: () => this.#tick(),
        heartbeatDue: () => this.#begin(),
        drained: () => this.#writePending(),
        settled: (reason) => this.#settle(reason),
        errorText: (error) => this.#errorText(error),
      },
    );
    // After the answer is settled, the client can still read its last bytes.
    const leave = () => this.#body.isOpen && this.#body.leave();
    parts.signal.addEventListener("abort", leave);
    if (parts.signal.aborted) leave();
    try {
      const receiver = {
        accepted: () => {
          if (--this.#unaccepted === 0 && stream && !this.#hasDeadline) this.#begin();
        },
        receive: (frames: Frame[]) => this.#receive(frames),
      };
      for (const batch of batchesOf(plan)) {
        if (!this.#body.isOpen) return;
        const cancel = parts.submit(withGathering(batch, stream, openStreams), receiver);
        if (!this.#body.isOpen) cancel();
        else this.#cancels.push(cancel);
      }
    } catch (thrown) {
      this.#fail(thrown);
    }
  }

  /** With a deadline, headers wait for the first event, so that a missed deadline has status 504. */
  get #hasDeadline(): boolean {
    return this.#request.plan.choices[0].sequence.deadlineMs !== undefined;
  }

  /** Renews the admission's lease and enforces the deadline. Nothing else in the cell enforces deadlines. */
  #tick(): void {
    if (!this.#body.isOpen) return;
    this.#parts.admission.renew();
    const { deadlineMs } = this.#request.plan.choices[0].sequence;
    if (deadlineMs === undefined || this.#count.haveAllBegun) return;
    if (this.#parts.now() - this.#startedMs <= deadlineMs) return;
    const message = `The deadline was ${deadlineMs} ms; not every choice has started.`;
    this.#fail(new ServiceError("deadline_exceeded", message));
  }

  #receive(frames: readonly Frame[]): void {
    if (!this.#body.isOpen) return;
    // A client that has read everything is not slow, so a burst of frames may exceed the maximum.
    const isBounded = !this.#request.stream || this.#body.unreadBytes > 0;
    for (const arrived of frames) {
      for (const frame of this.#promptScores.take(arrived)) this.#addPending(frame);
    }
    this.#writePending();
    if (this.#body.isOpen) this.#reportPending(isBounded);
    if (this.#body.isOpen && !this.#request.stream) this.#continueWhole();
  }

  /** Turns frames into events while the client reads. Other frames stay pending, because a frame takes fewer bytes than its events. */
  #writePending(): void {
    const isRead = () => !this.#request.stream || this.#body.unreadBytes < unreadAheadBytes;
    while (this.#pending.length > 0 && this.#body.isOpen && isRead()) this.#writeSome();
    if (this.#body.isOpen) this.#reportPending(false);
  }

  #reportPending(isBounded: boolean): void {
    const bytes = this.#request.stream ? this.#pendingBytes : 0;
    this.#body.setPendingBytes(bytes + this.#builder.heldBytes + this.#promptScores.heldBytes, isBounded);
  }

  #writeSome(): void {
    let events = "";
    /** Events of the stream's last frame, sent after the answer is charged. */
    let last = "";
    try {
      while (this.#pending.length > 0 && events.length < joinedBytes) {
        const frame = this.#pending.shift()!;
        this.#pendingBytes -= bytesOf(frame);
        const taken = this.#take(frame);
        if (this.#openChoices === 0) last += taken;
        else events += taken;
      }
    } catch (thrown) {
      // Events of earlier frames are delivered before the error.
      this.#writeEvents(events);
      this.#fail(thrown);
      return;
    }
    this.#writeEvents(events);
    if (this.#openChoices === 0) this.#complete(last).catch((thrown) => this.#fail(thrown));
  }

  #addPending(frame: Frame): void {
    this.#pending.push(frame);
    this.#pendingBytes += bytesOf(frame);
    if (frame.type === "error") return;
    this.#count.add(this.#choices.get(frame.id)!.planned, frame);
  }

  /** Adds a frame to its choice. Returns the events that the client of a stream lacks. Throws a frame's error, or numerics_mismatch. */
  #take(frame: Frame): string {
    const part = this.#choices.get(frame.id)!.push(frame);
    this.#builder.add(part);
    if (part.done) this.#openChoices--;
    const { stream, includeUsage } = this.#request;
    if (!stream) return "";
    const { index } = part.planned;
    let events = "";
    for (const { name, data, text, isLast } of this.#builder.events(part)) {
      if (this.#repeated?.skipIfSent(index, text, isLast)) continue;
      events += eventText({ name, data: includeUsage ? { ...data, usage: null } : data }, this.#eventId(index));
    }
    if (this.#openChoices > 0) return events;
    const usageChunk = includeUsage && !this.#repeated?.isUsageSent ? this.#builder.usageChunk() : null;
    if (usageChunk) events += eventText({ name: null, data: usageChunk }, this.#eventId(index, true));
    return events + sseDone;
  }

  #eventId(choice: number, isUsage = false): string | null {
    return this.#request.withEventIds ? this.#repeated!.idOf(choice, isUsage) : null;
  }

  #writeEvents(events: string): void {
    if (events === "") return;
    this.#body.write(events);
    this.#begin();
  }

  /** Begins a non-streamed answer with white space if the answer takes long. */
  #continueWhole(): void {
    const nowMs = this.#parts.now();
    this.#firstFrameMs ??= nowMs;
    const isLong = nowMs - this.#firstFrameMs >= this.#request.heartbeatMs;
    if (!this.#body.isOpen || !isLong || (this.#hasDeadline && !this.#count.haveAllBegun)) return;
    if (!this.#body.isWriting) this.#body.write(" ");
    this.#begin();
  }

  async #complete(events: string): Promise<void> {
    await this.#parts.admission.settle(this.#count.consumed(false));
    if (!this.#request.stream) {
      this.#completeWhole();
      return;
    }
    this.#begin();
    this.#body.complete(events);
  }

  #completeWhole(): void {
    const json = JSON.stringify(this.#builder.whole());
    const bytes = new TextEncoder().encode(json);
    if (this.#hasBegun || bytes.length > shortAnswerBytes) {
      this.#begin();
      this.#body.complete(json);
      return;
    }
    const headers = { ...this.#head(), "content-length": String(bytes.length) };
    this.#body.completeUnused();
    this.#response.resolve(new Response(bytes, { headers }));
  }

  #fail(thrown: unknown): void {
    const error = toServiceError(thrown);
    this.#body.fail(error.kind === "deadline_exceeded" ? "deadline" : "failed", error);
  }

  #settle(reason: EndReason): void {
    this.#pending.length = 0;
    if (this.#openChoices > 0) for (const cancel of this.#cancels) cancel();
    // `#complete` has already charged a complete answer.
    if (reason !== "complete") void this.#parts.admission.settle(this.#consumed(reason));
    if (reason === "gone" && !this.#hasBegun) {
      this.#response.reject(new ServiceError("cancelled", "The client disconnected."));
    }
  }

  #consumed(reason: Exclude<EndReason, "complete">): Consumption[] {
    // If the client caused the end, everything computed is charged; otherwise a client could compute for free.
    if (reason !== "failed") return this.#count.consumed(true);
    // If the service failed, only what the client received is charged. A non-streamed answer costs nothing.
    return this.#request.stream && this.#hasBegun ? this.#count.consumed(false) : [];
  }

  /** The text that ends the answer with an error. Rejects a response that has not begun, so that the error sets the status. */
  #errorText(error: ServiceError): string | null {
    if (!this.#hasBegun) {
      this.#response.reject(error);
      return null;
    }
    if (statusOf(error.kind) >= 500) this.#parts.log(error);
    if (!this.#request.stream) return failedMark;
    const events = this.#builder.failure(error).map((event) => eventText(event));
    return events.join("") + sseDone;
  }

  #begin(): void {
    if (this.#hasBegun || !this.#body.isOpen) return;
    this.#hasBegun = true;
    this.#response.resolve(new Response(this.#body.readable, { headers: this.#head() }));
  }

  #head(): Record<string, string> {
    const { tokenizeMs, assignMs } = this.#request.plan;
    const known = { tokenize: tokenizeMs, assign: assignMs };
    if (this.#request.stream) {
      const type = "text/event-stream; charset=utf-8";
      return { "content-type": type, "cache-control": "no-store", "server-timing": serverTiming(known) };
    }
    const timings = this.#openChoices === 0 ? this.#builder.timings : known;
    return { "content-type": "application/json", "server-timing": serverTiming(timings) };
  }
}

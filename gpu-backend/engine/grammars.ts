/**
 * Which tokens may come next in rows whose text is held to a schema. Three threads do the work, none of them the step's. The trial
 * thread compiles each new form, and is ended if that takes too long. The quick thread then serves forms whose trial was short, the slow
 * thread all others and those that turn out slow. So a row whose own compilation was short waits only for other short ones. The tenant
 * whose trials have taken the least time is next.
 */
import { setTimeout as startTimer } from "node:timers";
import { setTimeout } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { hasCalls } from "../../shared/contracts/tools.ts";
import { ServiceError } from "../../shared/errors.ts";
import { LruCache } from "../lru.ts";
import type { ThreadAnswer, ThreadCall, ThreadData } from "./grammar-thread.ts";

export const grammarLimits = {
  /** Longest compilation of one grammar, in milliseconds. */
  compileMs: 2000,
  /** Longest compilation on trial that makes a grammar a quick one, in milliseconds. */
  quickMs: 50,
  /** Longest wait for one row's allowed tokens in the slow thread, in milliseconds: a compilation and what waits before it. */
  answerMs: 5000,
  /** The same in the quick thread, which is started anew without the grammar that took longer. */
  quickAnswerMs: 250,
  /** Trials of one tenant that wait. */
  waitingTrials: 16,
  /** What is known of forms, by their bytes. */
  knownFormBytes: 2 ** 20,
};

/** A row's place in its grammar. */
export interface GrammarRow {
  /** Bits of the token ids that may come next, [⌈V / 32⌉]; null until that is known. */
  readonly allowed: Uint32Array | null;
  /** The next token was sampled. */
  advance(tokenId: number): void;
  close(): void;
}

interface Trial {
  tenant: string;
  form: string;
  known: Promise<Known>;
  done(known: Known): void;
}

/** A form's thread; `slower` takes its rows where that one failed. */
interface Served {
  thread: Thread;
  slower: Thread | null;
}

type Known = Served | { fault: string };

export class Grammars {
  readonly #now: () => number;
  readonly #trial: Thread;
  readonly #quick: Thread;
  readonly #slow: Thread;
  readonly #known = new LruCache<Known>(grammarLimits.knownFormBytes);
  /** The one that runs is the first. */
  readonly #trials: Trial[] = [];
  /** Milliseconds that each tenant's trials have taken since none last waited. */
  readonly #spentMs = new Map<string, number>();
  #isTrying = false;
  #rows = 0;

  /** `now`: milliseconds of a clock that only goes forward. Threads start with the first row. */
  constructor(data: () => ThreadData, now: () => number) {
    this.#now = now;
    let known: ThreadData | null = null;
    const open = (isPatient: boolean) => new Thread(() => (known ??= data()), isPatient);
    [this.#trial, this.#quick, this.#slow] = [open(true), open(false), open(true)];
  }

  /**
   * Opens a row whose text so far is `tokens`; resolves when its next tokens are known. `changed` is called whenever they are again, or
   * with the error that ends the row. Throws `invalid_request` for a form that cannot be compiled.
   */
  async open(
    { tenant, form, tokens }: { tenant: string; form: string; tokens: readonly number[] },
    changed: (error: ServiceError | null) => void,
  ): Promise<GrammarRow> {
    const known = this.#known.get(form) ?? (await this.#try(tenant, form));
    if ("fault" in known) throw refused(known.fault, form);
    const row = new Row(known, { id: this.#rows++, form, tokens: [...tokens] }, changed);
    await row.ready();
    return row;
  }

  close(): void {
    for (const thread of [this.#trial, this.#quick, this.#slow]) thread.end("the engine ends");
  }

  #try(tenant: string, form: string): Promise<Known> {
    // Choices of one request have one schema.
    const same = this.#trials.find((one) => one.tenant === tenant && one.form === form);
    if (same) return same.known;
    const own = this.#trials.filter((one) => one.tenant === tenant).length;
    if (own >= grammarLimits.waitingTrials) {
      const message = `${own} new schemas of yours wait to be compiled; that is the maximum.`;
      throw new ServiceError("overloaded", message, { retryAfterSeconds: 2 });
    }
    const { promise, resolve } = Promise.withResolvers<Known>();
    this.#trials.push({ tenant, form, known: promise, done: resolve });
    void this.#runTrials();
    return promise;
  }

  async #runTrials(): Promise<void> {
    if (this.#isTrying) return;
    this.#isTrying = true;
    for (let next = this.#nextTrial(); next; next = this.#nextTrial()) {
      const { tenant, form } = next;
      let tookMs = 0;
      let known = this.#known.get(form);
      if (!known) {
        const startedMs = this.#now();
        const answer = await this.#trial.call({ type: "compile", form }, grammarLimits.compileMs);
        tookMs = this.#now() - startedMs;
        this.#spentMs.set(tenant, (this.#spentMs.get(tenant) ?? 0) + tookMs);
        const isQuick = tookMs <= grammarLimits.quickMs;
        const served = isQuick ? { thread: this.#quick, slower: this.#slow } : { thread: this.#slow, slower: null };
        known = "fault" in answer ? answer : served;
        this.#known.set(form, known, form.length);
      }
      this.#trials.shift();
      next.done(known);
      // Leaves the cores to steps for as long as a long trial took.
      if (tookMs > grammarLimits.quickMs && this.#trials.length > 0) await setTimeout(tookMs, null, { ref: false });
    }
    this.#spentMs.clear();
    this.#isTrying = false;
  }

  /** Puts the trial of the tenant whose trials have taken the least time first. */
  #nextTrial(): Trial | undefined {
    const spent = ({ tenant }: Trial) => this.#spentMs.get(tenant) ?? 0;
    this.#trials.sort((a, b) => spent(a) - spent(b));
    return this.#trials[0];
  }
}

function refused(fault: string, form: string): ServiceError {
  const param = hasCalls(form) ? "tools" : "response_format";
  const message = `Invalid request: ${param} has a schema that cannot be compiled: ${fault}.`;
  return new ServiceError("invalid_request", message, { param });
}

class Row implements GrammarRow {
  allowed: Uint32Array | null = null;
  readonly #served: Served;
  /** The thread in which it is open, if that still runs. */
  #thread: Thread | null = null;
  readonly #id: number;
  readonly #form: string;
  readonly #tokens: number[];
  readonly #changed: (error: ServiceError | null) => void;
  /** The start of its thread in which it is open. */
  #start = 0;
  #closed = false;

  constructor(
    served: Served,
    { id, form, tokens }: { id: number; form: string; tokens: number[] },
    changed: (error: ServiceError | null) => void,
  ) {
    this.#served = served;
    this.#id = id;
    this.#form = form;
    this.#tokens = tokens;
    this.#changed = changed;
  }

  async ready(): Promise<void> {
    const fault = await this.#learn(this.#tokens.length);
    if (fault === null) return;
    this.close();
    throw refused(fault, this.#form);
  }

  advance(tokenId: number): void {
    this.allowed = null;
    this.#tokens.push(tokenId);
    void this.#learn(1).then((fault) => {
      if (!this.#closed) this.#changed(fault === null ? null : refused(fault, this.#form));
    });
  }

  close(): void {
    this.#closed = true;
    if (this.#thread?.starts === this.#start)
      void this.#thread.call({ type: "close", row: this.#id }, grammarLimits.answerMs);
  }

  /** Sends its last `added` tokens, new to its thread, and asks what may follow. Returns what went wrong, or null. */
  async #learn(added: number): Promise<string | null> {
    let fault = "";
    // A thread that has been started anew, or ends meanwhile because of another row, is told all of its tokens.
    for (let attempt = 0; attempt < 3; attempt++) {
      const { thread, slower } = this.#served;
      const starts = thread.start();
      const isOpen = thread === this.#thread && starts === this.#start;
      const tokens = this.#tokens.slice(isOpen ? -added : 0);
      [this.#thread, this.#start] = [thread, starts];
      const call = { type: "advance", row: this.#id, form: this.#form, tokens: added > 0 ? tokens : [] } as const;
      const answer = await thread.call(call, slower ? grammarLimits.quickAnswerMs : grammarLimits.answerMs);
      if ("allowed" in answer) {
        this.allowed = answer.allowed;
        return null;
      }
      fault = answer.fault;
      if (answer.isRefusal || (!answer.isOver && !slower)) break;
      if (!answer.isOver) if (slower) Object.assign(this.#served, { thread: slower, slower: null });
    }
    return fault;
  }
}

/** A worker thread that is started when it is needed and ended where it fails. */
class Thread {
  readonly #data: () => ThreadData;
  readonly #isPatient: boolean;
  #worker: Worker | null = null;
  #isReady: Promise<unknown> = Promise.resolve();
  readonly #calls = new Map<number, (answer: ThreadAnswer) => void>();
  /** The answer to the call that was posted last. */
  #latest: Promise<unknown> = Promise.resolve();
  #ids = 0;
  /** How often it has been started. */
  starts = 0;

  /** `isPatient`: other threads go first. */
  constructor(data: () => ThreadData, isPatient: boolean) {
    this.#data = data;
    this.#isPatient = isPatient;
  }

  /** Starts it if it does not run. Returns `starts`. */
  start(): number {
    if (this.#worker) return this.starts;
    const workerData = { ...this.#data(), isPatient: this.#isPatient };
    // What XGrammar prints may hold text of a schema.
    const options = { workerData, stdout: true, stderr: true };
    const worker = new Worker(new URL("./grammar-thread.ts", import.meta.url), options);
    worker.unref();
    const ready = Promise.withResolvers<void>();
    worker.on("message", (message: { id: number; answer: ThreadAnswer } | "ready") => {
      if (message === "ready") return ready.resolve();
      this.#calls.get(message.id)?.(message.answer);
      // A fault of XGrammar leaves its memory in no known state.
      if ("fault" in message.answer && !message.answer.isRefusal && this.#worker === worker)
        this.end(message.answer.fault);
    });
    const ended = (reason: string) => {
      ready.resolve();
      if (this.#worker === worker) this.end(reason);
    };
    worker.on("error", ({ message }) => ended(message));
    worker.on("exit", (code) => ended(`its thread ended with ${code}`));
    this.#worker = worker;
    this.#isReady = ready.promise;
    return ++this.starts;
  }

  /** Never rejects. Where the answer takes more than `withinMs`, the thread ends. */
  async call(call: ThreadCall, withinMs: number): Promise<ThreadAnswer> {
    const starts = this.start();
    await this.#isReady;
    if (this.starts !== starts || !this.#worker) return { fault: "its thread ended", isOver: true };
    const id = this.#ids++;
    const { promise, resolve } = Promise.withResolvers<ThreadAnswer>();
    // Calls are answered in order: a call's time begins when the one before it is answered, so that no other's is taken for it.
    let timer: NodeJS.Timeout | undefined;
    void this.#latest.then(() => {
      if (!this.#calls.has(id)) return;
      timer = startTimer(() => {
        resolve({ fault: `it takes more than ${withinMs} ms` });
        this.end("another call takes too long");
      }, withinMs);
    });
    this.#latest = promise;
    this.#calls.set(id, resolve);
    this.#worker.postMessage({ id, call });
    const answer = await promise;
    clearTimeout(timer);
    this.#calls.delete(id);
    return answer;
  }

  /** Calls in progress have `fault` as their answer. */
  end(fault: string): void {
    void this.#worker?.terminate();
    this.#worker = null;
    for (const answer of this.#calls.values()) answer({ fault, isOver: true });
  }
}

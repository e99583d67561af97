/**
 * Finds the tokens that may come next in rows (sequences) whose text is held to a form: a JSON Schema or tool calls. Compiling a form's
 * grammar may take long, so three threads beside the engine's do the work. The trial thread compiles each new form once, to measure the
 * time, and is ended if it takes too long. Then the quick thread serves the rows of forms that compiled quickly, and the slow thread all
 * others. So rows of quick forms wait only for each other. The tenant whose trials took the least time has its trial next.
 */
import { setTimeout as startTimer } from "node:timers";
import { setTimeout } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { hasCalls } from "../../shared/contracts/tools.ts";
import { ServiceError } from "../../shared/errors.ts";
import { LruCache } from "../lru.ts";
import type { ThreadAnswer, ThreadCall, ThreadData } from "./grammar-thread.ts";

export const grammarLimits = {
  /** Timeout of a trial, in milliseconds. */
  compileMs: 2000,
  /** Maximum milliseconds of a quick form's trial. */
  quickMs: 50,
  /** Timeout for a row's allowed tokens in the slow thread, in milliseconds, a compilation included. */
  answerMs: 5000,
  /** `answerMs` of the quick thread. A form that takes longer moves to the slow thread. */
  quickAnswerMs: 250,
  /** Maximum waiting trials of one tenant. */
  waitingTrials: 16,
  /** Maximum bytes of the forms whose trials are remembered. */
  knownFormBytes: 2 ** 20,
};

export type GrammarRow = Pick<Row, "allowed" | "advance" | "close">;

/** The thread that serves a form. After a late answer, `slower` replaces it. */
interface Served {
  thread: Thread;
  slower: Thread | null;
}

type Known = Served | { fault: string };

interface Trial extends PromiseWithResolvers<Known> {
  tenant: string;
  form: string;
}

export class Grammars {
  readonly #now: () => number;
  readonly #trial: Thread;
  readonly #quick: Thread;
  readonly #slow: Thread;
  readonly #known = new LruCache<Known>(grammarLimits.knownFormBytes);
  /** The first trial runs, the others wait. */
  readonly #trials: Trial[] = [];
  /** Milliseconds that trials took, by tenant; cleared when no trial waits. */
  readonly #spentMs = new Map<string, number>();
  #isTrying = false;
  #rows = 0;

  /** `now`: a monotonic clock, in milliseconds. Threads start when they are first needed. */
  constructor(data: () => ThreadData, now: () => number) {
    this.#now = now;
    let known: ThreadData | null = null;
    const open = (isPatient: boolean) => new Thread(() => (known ??= data()), isPatient);
    [this.#trial, this.#quick, this.#slow] = [open(true), open(false), open(true)];
  }

  /** Opens a row whose text is `tokens` so far. `changed` is called when `allowed` is known or the row fails. Throws `invalid_request`. */
  async open(
    { tenant, form, tokens }: { tenant: string; form: string; tokens: readonly number[] },
    changed: Changed,
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
    // All choices of a request have the same form, so they share one trial.
    const same = this.#trials.find((one) => one.tenant === tenant && one.form === form);
    if (same) return same.promise;
    const own = this.#trials.filter((one) => one.tenant === tenant).length;
    if (own >= grammarLimits.waitingTrials) {
      const message = `${own} new schemas of yours wait to be compiled; that is the maximum.`;
      throw new ServiceError("overloaded", message, { retryAfterSeconds: 2 });
    }
    const trial = { tenant, form, ...Promise.withResolvers<Known>() };
    this.#trials.push(trial);
    void this.#runTrials();
    return trial.promise;
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
      next.resolve(known);
      // After a long trial, pauses for as long as the trial took, so that the engine has the cores.
      if (tookMs > grammarLimits.quickMs && this.#trials.length > 0) await setTimeout(tookMs, null, { ref: false });
    }
    this.#spentMs.clear();
    this.#isTrying = false;
  }

  /** Moves the first trial of the tenant whose trials have taken the least time to the front, and returns the trial. */
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

type Changed = (error: ServiceError | null) => void;

interface RowText {
  id: number;
  form: string;
  tokens: number[];
}

class Row {
  /** Bits of the token ids that may come next, [⌈V / 32⌉]; null while they are unknown. */
  allowed: Uint32Array | null = null;
  readonly #served: Served;
  readonly #text: RowText;
  readonly #changed: Changed;
  /** The thread in which the row is open, how often that thread had been started by then, and the number of tokens sent to it. */
  #thread: Thread | null = null;
  #start = 0;
  #sent = 0;
  #closed = false;

  constructor(served: Served, text: RowText, changed: Changed) {
    this.#served = served;
    this.#text = text;
    this.#changed = changed;
  }

  async ready(): Promise<void> {
    const fault = await this.#learn();
    if (fault === null) return;
    this.close();
    throw refused(fault, this.#text.form);
  }

  advance(tokenId: number): void {
    this.allowed = null;
    this.#text.tokens.push(tokenId);
    void this.#learn().then((fault) => {
      if (!this.#closed) this.#changed(fault === null ? null : refused(fault, this.#text.form));
    });
  }

  close(): void {
    this.#closed = true;
    if (this.#thread?.starts !== this.#start) return;
    void this.#thread.call({ type: "close", row: this.#text.id }, grammarLimits.answerMs);
  }

  /** Sends the row's new tokens to the thread, and waits for `allowed`. Returns the fault, or null. */
  async #learn(): Promise<string | null> {
    const { id: row, form, tokens: all } = this.#text;
    let fault = "";
    // Sends all tokens again if the thread was restarted. Tries again if the thread ends before it answers, because of another row.
    for (let attempt = 0; attempt < 3; attempt++) {
      const { thread, slower } = this.#served;
      const starts = thread.start();
      const isOpen = thread === this.#thread && starts === this.#start;
      const tokens = all.slice(isOpen ? this.#sent : 0);
      [this.#thread, this.#start] = [thread, starts];
      const call = { type: "advance", row, form, tokens } as const;
      const answer = await thread.call(call, slower ? grammarLimits.quickAnswerMs : grammarLimits.answerMs);
      if ("allowed" in answer) {
        [this.allowed, this.#sent] = [answer.allowed, all.length];
        return null;
      }
      fault = answer.fault;
      if (answer.isRefusal || (!answer.isOver && !slower)) break;
      // All rows of the form move to the slower thread.
      if (!answer.isOver) Object.assign(this.#served, { thread: slower, slower: null });
    }
    return fault;
  }
}

/** A worker thread. Starts when it is needed, and ends if it fails or a call takes too long. */
class Thread {
  readonly #data: () => ThreadData;
  readonly #isPatient: boolean;
  #worker: Worker | null = null;
  #isReady: Promise<unknown> = Promise.resolve();
  readonly #calls = new Map<number, (answer: ThreadAnswer) => void>();
  #latest: Promise<unknown> = Promise.resolve();
  #ids = 0;
  starts = 0;

  /** `isPatient`: the thread has a lower priority than other threads. */
  constructor(data: () => ThreadData, isPatient: boolean) {
    this.#data = data;
    this.#isPatient = isPatient;
  }

  /** Starts the thread if it is not running. Returns how often it has been started. */
  start(): number {
    if (this.#worker) return this.starts;
    const workerData = { ...this.#data(), isPatient: this.#isPatient };
    // XGrammar's output may contain text of a schema, so it is kept out of this process's output.
    const options = { workerData, stdout: true, stderr: true };
    const worker = new Worker(new URL("./grammar-thread.ts", import.meta.url), options);
    worker.unref();
    const ready = Promise.withResolvers<void>();
    worker.on("message", (message: { id: number; answer: ThreadAnswer } | "ready") => {
      if (message === "ready") return ready.resolve();
      this.#calls.get(message.id)?.(message.answer);
      // After a fault of XGrammar the state of its memory is unknown.
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

  /** Makes the thread answer a call. Never rejects. If the answer takes more than `withinMs`, the thread is ended. */
  async call(call: ThreadCall, withinMs: number): Promise<ThreadAnswer> {
    const starts = this.start();
    await this.#isReady;
    if (this.starts !== starts || !this.#worker) return { fault: "its thread ended", isOver: true };
    const id = this.#ids++;
    const { promise, resolve } = Promise.withResolvers<ThreadAnswer>();
    // The thread handles calls in order, so a call's time begins when the call before it has ended.
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

  /** Ends the thread. Calls in progress are answered with `fault`. */
  end(fault: string): void {
    void this.#worker?.terminate();
    this.#worker = null;
    for (const answer of this.#calls.values()) answer({ fault, isOver: true });
  }
}

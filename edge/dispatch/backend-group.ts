/**
 * One address and its processes. Pure: the caller passes the time. An address with `{name}` leads to several processes: they are
 * discovered by the names in their answers, and dropped when they have not answered for long. Any other address is one process.
 */
import type { BackendLoad } from "../../shared/contracts/backend-headers.ts";
import { type BackendAddress, hasProcesses } from "./addresses.ts";
import { addLoads, BackendHealth, LoadEstimate } from "./backend-state.ts";
import { routingLimits } from "./routing-limits.ts";

/** The target of a call: one process, or any process of an address with `{name}`. */
export class Backend {
  readonly id: string;
  readonly group: BackendGroup;
  readonly address: BackendAddress;
  /** null: the one process of its address, or any of several. */
  readonly name: string | null;
  readonly health = new BackendHealth();
  readonly load = new LoadEstimate();
  lastAnswerMs = 0;

  constructor(group: BackendGroup, address: BackendAddress, name: string | null) {
    this.id = name === null ? address.url : `${address.url}#${name}`;
    this.group = group;
    this.address = address;
    this.name = name;
  }

  /** Counts the sequences of a call as running there and, until `recordAnswered`, as unanswered. */
  recordSent(sequences: number): void {
    this.load.own += sequences;
    this.load.unanswered += sequences;
    this.group.recordSent(this);
  }

  /** Called when the call with these sequences was accepted or failed. */
  recordAnswered(sequences: number): void {
    this.load.unanswered -= sequences;
  }

  recordSuccess(): void {
    this.health.recordSuccess();
    this.group.any.health.recordSuccess();
  }
}

export class BackendGroup {
  /** The target of calls that name no process. */
  readonly any: Backend;
  readonly #processes = new Map<string, Backend>();
  /** Calls in a row that named a process. */
  #namedCalls = 0;

  constructor(address: BackendAddress) {
    this.any = new Backend(this, address, null);
  }

  get processes(): Backend[] {
    return [...this.#processes.values()];
  }

  /** The load of all known processes. */
  loadAt(nowMs: number, senders: number): BackendLoad {
    const any = this.any.load.at(nowMs, senders);
    if (this.#processes.size === 0) return any;
    return this.processes
      .map(({ load }) => load.at(nowMs, senders))
      .reduce(addLoads, { sequences: any.sequences, slots: 0 });
  }

  /**
   * The backends of this address that a call may go to next. A first call names a process if several are known, so that a process
   * keeps getting the requests that its caches are warm for. A retry names a process that is not in `tried`. It names none only if
   * the call may then reach a process that is not known yet.
   */
  candidates(tried: ReadonlySet<string>, isFit: (process: Backend) => boolean, nowMs: number): Backend[] {
    const processes = this.processes.filter((one) => !this.#isOld(one, nowMs));
    const fit = processes.filter(isFit);
    if (!this.wasTried(tried)) return processes.length > 1 && fit.length > 0 ? fit : [this.any];
    const left = fit.filter(({ id }) => !tried.has(id));
    if (left.length > 0) return left;
    const mayReachOther = fit.length === 0 || processes.length === 1;
    return [...(mayReachOther ? [this.any] : []), ...processes].filter(({ id }) => !tried.has(id));
  }

  wasTried(tried: ReadonlySet<string>): boolean {
    return tried.has(this.any.id) || this.processes.some(({ id }) => tried.has(id));
  }

  /** Whether a first call must not name a process, so that new processes are discovered. */
  mustDiscover(tried: ReadonlySet<string>): boolean {
    return this.#namedCalls >= routingLimits.namedCallsInRow && !this.wasTried(tried);
  }

  recordSent({ name }: Backend): void {
    this.#namedCalls = name === null ? 0 : this.#namedCalls + 1;
  }

  /** Returns the process that answered a call, by the name in its answer; `called` if the address is one process. */
  recordAnswer(called: Backend, name: string | null, nowMs: number): Backend {
    if (name === null || !hasProcesses(called.address.url)) return called;
    const process = this.#processes.get(name) ?? this.#addProcess(name, nowMs);
    process.lastAnswerMs = nowMs;
    return process;
  }

  recordProbe(backend: Backend, isReady: boolean, nowMs: number): void {
    backend.health.recordProbe(isReady, nowMs);
    if (!isReady && nowMs - backend.lastAnswerMs > routingLimits.forgetMs) this.forget(backend);
  }

  /** Drops a process; its next answer adds it again. */
  forget({ name }: Backend): void {
    if (name !== null) this.#processes.delete(name);
  }

  #isOld({ load, lastAnswerMs }: Backend, nowMs: number): boolean {
    return load.own === 0 && nowMs - lastAnswerMs > routingLimits.processTtlMs;
  }

  /** Also drops old processes, and those above the maximum. */
  #addProcess(name: string, nowMs: number): Backend {
    const byAge = this.processes.toSorted((a, b) => a.lastAnswerMs - b.lastAnswerMs);
    for (const [i, process] of byAge.entries()) {
      const isOneTooMany = byAge.length - i >= routingLimits.processesPerAddress;
      if (isOneTooMany || this.#isOld(process, nowMs)) this.forget(process);
    }
    const process = new Backend(this, this.any.address, name);
    this.#processes.set(name, process);
    return process;
  }
}

/**
 * What requests used, reported in fewer events than there were requests: each costs the object's thread time, and money.
 * Those of `gatherUseMs` that are of one tenant, model and centroid are one. An object that is lost meanwhile loses them; what
 * limits count is in the ledgers.
 */
import { pause } from "../platform/pause.ts";
import { type Consumption, gatherUseMs, inAll } from "./consumption.ts";

export type ReportUse = (tenant: string, consumed: readonly Consumption[]) => void;

export class UsageEvents {
  readonly #report: ReportUse;
  /** Keeps the object alive until `work` settles (waitUntil). */
  readonly #background: (work: Promise<void>) => void;
  /** Tenant → model and centroid → what was used. */
  readonly #untold = new Map<string, Map<string, Consumption>>();

  constructor(report: ReportUse, background: (work: Promise<void>) => void) {
    this.#report = report;
    this.#background = background;
  }

  /** All is told. */
  get idle(): boolean {
    return this.#untold.size === 0;
  }

  add(tenant: string, consumed: readonly Consumption[]): void {
    if (this.#untold.size === 0) this.#background(this.#tellSoon());
    const untold = this.#untold.get(tenant) ?? new Map<string, Consumption>();
    this.#untold.set(tenant, untold);
    for (const one of consumed) {
      const key = JSON.stringify([one.model, one.centroid]);
      untold.set(key, inAll(one, untold.get(key)));
    }
  }

  /** No timer is left when it resolves. */
  async #tellSoon(): Promise<void> {
    await pause(gatherUseMs);
    const gathered = [...this.#untold];
    this.#untold.clear();
    for (const [tenant, consumed] of gathered) this.#report(tenant, [...consumed.values()]);
  }
}

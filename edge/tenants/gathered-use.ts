/**
 * What requests of tenants used, told their ledgers together with what comes within `gatherMs`: each telling is a request to
 * another object. Of one object, which waits for it; an object that is lost meanwhile loses what it has not told.
 */
import type { Consumption } from "./consumption.ts";
import type { Ledger } from "./ledger.ts";

const gatherMs = 50;

export class GatheredUse {
  readonly #ledgers: DurableObjectNamespace<Ledger>;
  readonly #untold = new Map<string, { consumed: Consumption[]; told: Promise<void> }>();

  constructor(ledgers: DurableObjectNamespace<Ledger>) {
    this.#ledgers = ledgers;
  }

  /** Resolves when it is written. No timer is left then. */
  add(tenant: string, consumed: readonly Consumption[]): Promise<void> {
    const untold = this.#untold.get(tenant);
    if (untold) {
      untold.consumed.push(...consumed);
      return untold.told;
    }
    const gathering = [...consumed];
    const told = new Promise<void>((resolve) => setTimeout(resolve, gatherMs)).then(() => {
      this.#untold.delete(tenant);
      return this.#ledgers.getByName(tenant).use(gathering);
    });
    this.#untold.set(tenant, { consumed: gathering, told });
    return told;
  }
}

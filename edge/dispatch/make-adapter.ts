/** The first backend that accepts the request makes the tenant's own adapter. */
import type { AdapterRequest } from "../../shared/contracts/inference.ts";
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import { CallFailure, errorOf } from "./call-failure.ts";
import type { BackendClient, MadeAdapter } from "./client.ts";

/** `clients`: the backends of the tenant's jurisdiction. Throws a ServiceError, of kind `cancelled` when `signal` aborts. */
export async function makeAdapter(
  clients: Iterable<Pick<BackendClient, "createAdapter">>,
  request: AdapterRequest,
  signal: AbortSignal,
  begun: () => void,
): Promise<MadeAdapter> {
  const failures: CallFailure[] = [];
  for (const client of clients) {
    try {
      return await client.createAdapter(request, signal, begun);
    } catch (thrown) {
      if (signal.aborted) throw new ServiceError("cancelled", "The client disconnected.", { cause: thrown });
      if (!(thrown instanceof CallFailure)) throw thrown;
      if (!thrown.consequence.retryElsewhere) throw thrown.error;
      failures.push(thrown);
    }
  }
  throw errorOf(failures, jurisdictionOf(request.tenant));
}

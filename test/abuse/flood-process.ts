/** Repeats one request on many connections until it is told to stop, and counts the responses' statuses. */
import { connect, type Socket } from "node:net";
import type { Flood, FloodResult } from "./measurements.ts";

let statuses: FloodResult = {};
let sockets: Set<Socket> | null = null;

process.on("message", (message: Flood | "stop") => {
  if (message === "stop") stop();
  else start(message);
});
process.once("disconnect", () => process.exit(0));

/** Starts a flood. Reports `flooding` once each connection has sent its first request or received a response. */
function start({ port, bytesBase64, connections }: Flood): void {
  const bytes = Buffer.from(bytesBase64, "base64");
  const mine = new Set<Socket>();
  sockets = mine;
  let pending = connections;
  const begun = () => {
    if (--pending === 0) process.send!({ kind: "flooding" });
  };
  const open = (first: () => void) => {
    if (sockets !== mine) return;
    const socket = connect(port, "127.0.0.1");
    mine.add(socket);
    let answer = "";
    let hasAnswer = false;
    const once = () => {
      first();
      first = () => {};
    };
    socket.on("data", (chunk) => {
      once();
      if (hasAnswer) return;
      answer += chunk.toString("latin1");
      const status = /^HTTP\/1\.1 (\d{3}).*\r\n/.exec(answer)?.[1];
      if (!status) return;
      hasAnswer = true;
      count(status);
      socket.destroy();
    });
    // A reset after an early refusal is expected: by then the status has been received or is lost.
    socket.on("error", () => {});
    socket.on("close", () => {
      once();
      mine.delete(socket);
      if (sockets !== mine) return;
      if (!hasAnswer) count("closed");
      setImmediate(open, () => {});
    });
    socket.write(bytes, once);
  };
  for (let i = 0; i < connections; i++) open(begun);
}

function stop(): void {
  const open = sockets;
  sockets = null;
  for (const socket of open ?? []) socket.destroy();
  process.send!({ kind: "stopped", result: statuses });
  statuses = {};
}

function count(status: string): void {
  statuses[status] = (statuses[status] ?? 0) + 1;
}

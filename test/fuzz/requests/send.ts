/** Sends one bad request over a connection of its own, as its delivery says, and reads what comes back. */
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { BadRequest } from "./arbitraries.ts";

export interface Outcome {
  /** null where the connection ended without an answer. */
  status: number | null;
  /** The head and the beginning of the body, as text. */
  answer: string;
  /** Set if we closed the connection: as the request planned it, or because the answer took too long. */
  gaveUp: "as planned" | "too late" | null;
}

const keptCharacters = 4096;

export async function send({ head, body, delivery }: BadRequest, port: number, patienceMs: number): Promise<Outcome> {
  const socket = connect(port, "127.0.0.1");
  socket.setNoDelay(true);
  let answer = "";
  let bytes = 0;
  let gaveUp: Outcome["gaveUp"] = null;
  const giveUp = (why: NonNullable<Outcome["gaveUp"]>) => {
    gaveUp ??= why;
    socket.destroy();
  };
  const ended = new Promise<void>((resolve) => {
    socket.on("close", () => resolve());
    // The edge or we reset the connection; "close" follows in either case.
    socket.on("error", () => {});
  });
  socket.on("data", (chunk) => {
    bytes += chunk.byteLength;
    if (answer.length < keptCharacters) answer += chunk.toString("latin1");
    if (delivery.kind === "cut-answer" && bytes >= delivery.bytes) giveUp("as planned");
  });
  const timer = setTimeout(() => giveUp("too late"), patienceMs);
  const request = Buffer.concat([Buffer.from(head, "latin1"), body]);
  switch (delivery.kind) {
    case "whole":
    case "cut-answer":
      socket.write(request);
      break;
    case "leaves":
      if (!delivery.isReading) socket.pause();
      socket.write(request);
      await Promise.race([sleep(delivery.waitMs), ended]);
      giveUp("as planned");
      break;
    case "slow": {
      const size = Math.ceil(request.byteLength / delivery.pieces);
      for (let at = 0; at < request.byteLength && !socket.destroyed; at += size) {
        socket.write(request.subarray(at, at + size));
        await sleep(delivery.pauseMs);
      }
      break;
    }
    case "cut-request":
      socket.write(request.subarray(0, Math.floor(delivery.share * request.byteLength)));
      await sleep(delivery.waitMs);
      giveUp("as planned");
  }
  await ended;
  clearTimeout(timer);
  const status = /^HTTP\/1\.1 (\d{3})/.exec(answer.replace(/^HTTP\/1\.1 100 .*?\r\n\r\n/s, ""));
  return { status: status ? Number(status[1]) : null, answer: answer.slice(0, keptCharacters), gaveUp };
}

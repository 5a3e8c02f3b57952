/**
 * A user who is known by an id: tells the server what the user just did, and asks for recommendations by the id alone.
 *
 *   npm run observe -- localhost:9001 u42 318 296
 */
import { credentials } from "@grpc/grpc-js";

import { call, report } from "./call.js";
import {
  InterestServiceClient,
  ObserveRequest,
  RecommendRequest,
  StateStatus,
  stateStatusToJSON,
  type ObserveResponse,
  type RecommendResponse,
} from "./generated/ebbtide/v1/interest.js";

async function main(address: string, userId: string, itemIds: string[]): Promise<number> {
  const client = new InterestServiceClient(address, credentials.createInsecure());
  const now = new Date();
  // Without an eventId, an event is the same as another of the same item and time: sent twice, it counts once.
  const events = itemIds.map((value) => ({ subject: { $case: "itemId" as const, value }, time: now }));
  try {
    const observed = await call<ObserveRequest, ObserveResponse>(
      client.observe.bind(client),
      ObserveRequest.fromPartial({ userId, events }),
    );
    const answer = await call<RecommendRequest, RecommendResponse>(
      client.recommend.bind(client),
      // With allowStateless, the answer comes from the popularity prior if the store of the states is down.
      RecommendRequest.fromPartial({ userId, allowStateless: true, topN: 5 }),
    );
    if (answer.stateStatus !== StateStatus.STATE_STATUS_USED) {
      console.error(`the state was not used: ${stateStatusToJSON(answer.stateStatus)}`);
    }
    const { items, eventsUsed } = answer;
    console.log(JSON.stringify({ added: observed.addedEvents, items, eventsUsed }));
    return 0;
  } catch (error) {
    report(error);
    return 1;
  } finally {
    client.close();
  }
}

const [address = "localhost:9001", userId = "", ...itemIds] = process.argv.slice(2);
process.exitCode = await main(address, userId, itemIds);

/**
 * New items without training: adds an item to the running servers, and lists those that were added.
 *
 *   npm run items -- localhost:9001 n1 "A New Film (2026). Drama|Comedy"
 */
import { credentials } from "@grpc/grpc-js";

import { call, report } from "./call.js";
import {
  AddItemsRequest,
  InterestServiceClient,
  ListItemsRequest,
  type AddItemsResponse,
  type ListItemsResponse,
} from "./generated/ebbtide/v1/interest.js";

async function main(address: string, itemId: string, text: string): Promise<number> {
  const client = new InterestServiceClient(address, credentials.createInsecure());
  try {
    // An item that was added before is replaced: sent twice, it is there once.
    const added = await call<AddItemsRequest, AddItemsResponse>(
      client.addItems.bind(client),
      AddItemsRequest.fromPartial({ items: [{ itemId, text }] }),
    );
    const itemIds: string[] = [];
    let part = 0;
    do {
      const listed = await call<ListItemsRequest, ListItemsResponse>(
        client.listItems.bind(client),
        ListItemsRequest.fromPartial({ part }),
      );
      itemIds.push(...listed.items.map((item) => item.itemId));
      part = listed.nextPart;
    } while (part !== 0);
    console.log(JSON.stringify({ added: added.addedItems, replaced: added.replacedItems, itemIds }));
    return 0;
  } catch (error) {
    report(error);
    return 1;
  } finally {
    client.close();
  }
}

const [address = "localhost:9001", itemId = "", text = ""] = process.argv.slice(2);
process.exitCode = await main(address, itemId, text);

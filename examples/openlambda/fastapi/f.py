from fastapi import FastAPI, Response
from pydantic import BaseModel

app = FastAPI()


class Item(BaseModel):
    name: str
    price: float


@app.get("/")
def hello():
    return {"message": "hello world"}


@app.put("/items/{number}", status_code=201)
async def put(number: int, item: Item, response: Response):
    response.headers["X-Item"] = str(number)
    return {"number": number, "total": item.price * 2}

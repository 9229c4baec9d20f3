from flask import Flask, request

app = Flask(__name__)


@app.route("/")
def index():
    return f"hello from {request.script_root}\n"


@app.route("/users/<name>", methods=["GET", "PUT"])
def user(name):
    if request.method == "PUT":
        return {"name": name, **request.get_json()}, 201, {"Location": request.path}
    return {"name": name, "page": request.args.get("page"), "agent": request.headers.get("X-Agent")}


@app.route("/fails")
def fails():
    raise RuntimeError("on purpose")

"""Renders chat templates with ours and with transformers' own environment and compares. Usage: templates.py TOOL FOLDER

Exit code 77: transformers is not installed or the folder has no templates.
"""
import datetime, glob, json, os, subprocess, sys

try:
    import jinja2
    from transformers.utils import chat_template_utils as C
except ImportError:
    sys.exit(77)

T, folder = sys.argv[1], sys.argv[2]
os.environ["TZ"] = "UTC"
if not glob.glob(os.path.join(folder, "*.jinja")):
    sys.exit(77)
tools=[{"type":"function","function":{"name":"get_weather","description":"Weather \u00e9 <now>","parameters":{"type":"object","properties":{"city":{"type":"string","description":"The city"},"unit":{"type":"string","enum":["c","f"]}},"required":["city"]}}}]
M=lambda r,c,**k: dict(role=r,content=c,**k)
convs=[
 dict(messages=[M('user','Hello')],add_generation_prompt=True),
 dict(messages=[M('system','Be kind.'),M('user','Hi "there"\n'),M('assistant','Yo <b>'),M('user',' What\u2019s up? ')],add_generation_prompt=True),
 dict(messages=[M('user','a'),M('assistant','b')],add_generation_prompt=False),
 dict(messages=[M('user','Weather?')],tools=tools,add_generation_prompt=True),
 dict(messages=[M('system','S'),M('user','Weather?'),M('assistant','',tool_calls=[{"type":"function","id":"call_1234","function":{"name":"get_weather","arguments":{"city":"Paris","n":1.5,"ok":True,"none":None}}}]),M('tool','22C',name='get_weather',tool_call_id='call_1234'),M('assistant','It is 22C.')],tools=tools,add_generation_prompt=False),
 dict(messages=[M('user','q'),M('assistant','<think>hmm</think>answer',reasoning_content='hmm'),M('user','again')],add_generation_prompt=True,enable_thinking=False),
 dict(messages=[M('user',[{"type":"text","text":"part"}])],add_generation_prompt=True),
 dict(messages=[],add_generation_prompt=True),
 dict(messages=[M('assistant','first')],add_generation_prompt=False),
 dict(messages=[M('user','x'),M('user','y')],add_generation_prompt=True),
 dict(messages=[{"role":"user"}],add_generation_prompt=True),
]
for c in convs: c.setdefault('bos_token','<s>'); c.setdefault('eos_token','</s>'); c.setdefault('tools',None); c.setdefault('documents',None)
def reference(src,conv):
    try: return C._compile_jinja_template(src).render(**conv)
    except Exception as e: return e
tot=bad=refused=both=0
class FakeDate(datetime.datetime):
    @classmethod
    def now(cls,tz=None): return cls(2026,1,1,0,0,0)
C.datetime=FakeDate
for p in sorted(glob.glob(os.path.join(folder,'*.jinja'))):
    src=open(p,newline='').read(); n=os.path.basename(p)
    r=subprocess.run([T,'template',p],input=''.join(json.dumps(c)+'\n' for c in convs),capture_output=True,text=True)
    if r.returncode:
        ref=reference(src,convs[0])
        print(n,'NOT PARSED',r.stderr.strip()[-160:], '| ref:',type(ref).__name__); refused+=1; continue
    out=[json.loads(l) for l in r.stdout.split('\n')[:-1]]
    msgs=[]
    for i,(c,o) in enumerate(zip(convs,out)):
        ref=reference(src,c); tot+=1
        if isinstance(ref,Exception):
            if 'error' in o: both+=1
            else: bad+=1; msgs.append((i,'ref fails: '+repr(ref)[:120],'ours: '+ascii(o['text'])[:60]))
        elif 'error' in o: bad+=1; msgs.append((i,'ERR',o['error'][-150:]))
        elif o['text']!=ref:
            bad+=1; k=next((k for k in range(min(len(ref),len(o['text']))) if ref[k]!=o['text'][k]),min(len(ref),len(o['text'])))
            msgs.append((i,'DIFF at',k,ascii(o['text'][max(0,k-30):k+30]),ascii(ref[max(0,k-30):k+30])))
    for m in msgs[:2]: print(n,len(msgs),*m)
print('renders',tot,'different',bad,'both refuse',both,'templates not parsed',refused)
sys.exit(1 if bad else 0)
